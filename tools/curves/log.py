"""The log that every training run leaves in trainer_state.json, and the curves in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_chat.model.json_object import read_object

LOG_NAME = "trainer_state.json"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log entries of a run, in order of steps.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: it has no entry of a training step.
    """
    path = run / LOG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such log; --run names the output folder of a training that has saved")
    entries = read_object(path, "every save of the training writes it").get("log_history", [])
    if not any("loss" in entry for entry in entries):
        raise ValueError(
            f"{path}: none of its {len(entries)} entries is of a training step; train with --logging_steps 1"
        )
    return entries


def curve(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity of the log."""
    found = [(entry["step"], entry[name]) for entry in entries if name in entry]
    return [step for step, _ in found], [value for _, value in found]
