"""The log of a run, and the curves in it: trainer_state.json of every save, log.jsonl line by line while it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_chat.model.json_object import read_object

LOG_NAME = "trainer_state.json"
RECORD_NAME = "log.jsonl"
LABELS = {
    "loss": "loss",
    "nll_loss": "NLL of chosen",
    "losses/sigmoid": "DPO (sigmoid)",
    "losses/bco_pair": "BCO",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
    "delta": "BCO's delta",
    "rewards/margins": "margin",
    "rewards/accuracies": "chosen wins",
    "f1/right": "right",
    "f1/wrong": "wrong",
    "f1/macro": "their mean",
    "steps/accuracy": "judged as they are",
    "steps/right": "right",
    "steps/p_right": "mean score",
    "eval_accuracy": "right answers",
    "eval_logps/right_change": "right ones",
    "eval_logps/wrong_change": "wrong ones",
    "learning_rate": "learning rate",
    "grad_norm": "norm of the gradient",
    "lengths/chosen": "chosen",
    "lengths/rejected": "rejected",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
    "pairs_per_second": "pairs",
    "tokens_per_second": "tokens",
    "peak_memory_gib": "peak memory",
}
"""Curve of the log -> its name beside others, in the order of the panels."""


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log entries of a run, in order of steps.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: it has no entry of a training step.
    """
    path = run / LOG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such log; name the output folder of a training that has saved")
    entries = read_object(path, "every save of the training writes it").get("log_history", [])
    if not any("loss" in entry for entry in entries):
        raise ValueError(
            f"{path}: none of its {len(entries)} entries is of a training step; train with --logging_steps 1"
        )
    return entries


def read_newest_log(run: Path) -> list[dict[str, Any]]:
    """The log entries of a run that may still go on: of log.jsonl where that is newer than any save.

    Raises:
        FileNotFoundError, ValueError: as `read_log`.
    """
    saved, record = newest_save(run), run / RECORD_NAME
    is_newer = record.is_file() and _changed(record) > _changed(saved / LOG_NAME)
    entries = read_record(record) if is_newer else []
    return entries if any("loss" in entry for entry in entries) else read_log(saved)


def newest_save(run: Path) -> Path:
    """The folder with the newest log of a save: the run's own where it is finished, else its last checkpoint."""
    if (run / LOG_NAME).is_file():
        return run
    checkpoints = [path.parent for path in run.glob(f"checkpoint-*/{LOG_NAME}")]
    return max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), default=run)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def read_record(path: Path) -> list[dict[str, Any]]:
    """The entries of log.jsonl: going on from a checkpoint replaces what came behind it; a torn line waits."""
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        entry = json.loads(line)
        while entries and _is_replaced(entries[-1], entry):
            entries.pop()
        entries.append(entry)
    return entries


def _is_replaced(earlier: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    is_same = earlier["step"] == entry["step"] and "loss" in earlier and "loss" in entry
    return is_same or earlier["step"] > entry["step"]


def curve(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity of the log."""
    found = [(entry["step"], entry[name]) for entry in entries if isinstance(entry.get(name), int | float)]
    return [step for step, _ in found], [value for _, value in found]
