"""The starts of one run: whether this one may go on from a checkpoint, whether anything is left to do, what it changed.

settings.json tells it: the flags in force now, and a list of all starts, at which step each began and what it changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.checkpoint.resume import PREFERENCE_STATE
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.order import facts_of, groups_in_force, order_facts
from internvl_chat.model.upstream import TRAINER_STATE_NAME
from internvl_chat.records.durable import write_atomically
from internvl_chat.run.process import gather_objects
from internvl_chat.run.recipe import changes, planned_steps, recipe, refuse, refused

logger = logging.getLogger(__name__)

SETTINGS_NAME = "settings.json"
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")  # alone, FSDP twice, DeepSpeed
SCHEDULERS = ("scheduler.pt", "global_step*")
RANDOM_STATES = ("rng_state*.pth",)


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
        made_of: what the run is made of, see `recipe`.
        step: that it begins behind; 0 of a fresh run.
        changed: settings that take effect from there on: what they were, what they are.
        is_finished: whether the run had come to this end before, with its model exported.
        groups: what its pairs are grouped by from its first step on, None of a fresh run.
    """

    made_of: dict[str, Any]
    step: int = 0
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    is_finished: bool = False
    groups: str | None = None


def begin(
    groups: tuple[ModelArguments, DataArguments, MPOConfig],
    resume_point: str | None,
    *,
    source: Path,
    dataset: MixtureDataset | None,
) -> Start:
    """Look at what this start goes on from; the first rank does and all ranks hear, a collective.

    Args:
        groups: the flags.
        resume_point: folder of the checkpoint, None for a fresh run.
        source: local folder of the base.
        dataset: to train on.

    Raises:
        ValueError: on all ranks; the checkpoint is of a run made of something else, or is not whole.
        FileNotFoundError: on all ranks; it is no checkpoint of such a run.
    """
    outcome: Start | Exception | None = None
    if groups[2].process_index == 0:
        try:
            outcome = _begin(groups, resume_point, source, dataset)
        except (ValueError, OSError) as error:
            outcome = error
    told = gather_objects(outcome)[0]
    if isinstance(told, Exception):
        raise told
    for name, (was, now) in told.changed.items():
        logger.info("from step %d on %s is %s; it was %s", told.step, name, now, was)
    return told


def _begin(
    groups: tuple[ModelArguments, DataArguments, MPOConfig],
    resume_point: str | None,
    source: Path,
    dataset: MixtureDataset | None,
) -> Start:
    args = groups[2]
    datasets = {data.spec.name: data for data in (dataset.mixture.datasets if dataset else [])}
    made_of = recipe(*groups, source=source, datasets=list(datasets.values()))
    if args.save_only_model and args.save_strategy != "no":
        logger.warning("--save_only_model True: no checkpoint of this run can be gone on from, it has no optimizer")
    if resume_point is None:
        return Start(made_of)
    folder = Path(resume_point)
    state = _read(folder / PREFERENCE_STATE, "no BCO delta to resume with; is this a checkpoint of an MPO run?")
    step = _read(folder / TRAINER_STATE_NAME, "no state of the training to resume with")["global_step"]
    data_world_size = args.world_size // args.sequence_parallel_size
    if "recipe" not in state:
        logger.warning("%s is of an older version and does not say what its run is made of: not compared", folder)
    found = changes(facts_of(state["data"]), order_facts(datasets, args, data_world_size))
    found |= changes(state.get("recipe", {}), made_of)
    refuse(folder, refused(found, args))
    end = planned_steps(args, len(dataset or []), data_world_size)
    if step < end:
        check_complete(folder)
    is_done = step >= end and is_exported(Path(args.output_dir), end, with_evaluation=bool(groups[1].eval_meta_path))
    return Start(made_of, step, found, is_done, groups_in_force(state["data"]))


def _read(path: Path, missing: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {missing}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def check_complete(folder: Path) -> None:
    """Refuse a checkpoint that lacks a part of the run's state, which transformers would start anew without a word.

    Raises:
        ValueError: names what is missing and the cure.
    """
    parts = {"optimizer": OPTIMIZERS, "schedule": SCHEDULERS, "random states": RANDOM_STATES}
    missing = [name for name, patterns in parts.items() if not any(any(folder.glob(p)) for p in patterns)]
    if missing:
        raise ValueError(
            f"{folder} has weights but no {', no '.join(missing)} (of --save_only_model True, or deleted): it cannot "
            f"be gone on from. Name a whole one by --resume_from_checkpoint, or start a new run from its weights: "
            f"--model_name_or_path {folder} and another --output_dir"
        )


def is_exported(folder: Path, end: int, *, with_evaluation: bool) -> bool:
    """Whether an output folder holds model and record of a run that came to its end, at step `end` or later."""
    names = ("trainer_state.json", "train_results.json", "eval_results.json")
    state, results, evaluation = (folder / name for name in names)
    if not (state.is_file() and results.is_file()):
        return False
    if json.loads(state.read_text(encoding="utf-8"))["global_step"] < end:
        return False
    weights = any(folder.glob("*.safetensors")) or (folder / "adapter").is_dir()
    is_evaluated = evaluation.is_file() and evaluation.stat().st_mtime_ns >= state.stat().st_mtime_ns
    return weights and (is_evaluated or not with_evaluation)


def record_settings(
    groups: tuple[ModelArguments, DataArguments, MPOConfig],
    dataset: MixtureDataset | None,
    start: Start,
) -> None:
    """Write settings.json beside the checkpoints, on one rank: flags in force, the mixture, and all starts so far."""
    model_args, data_args, mpo_args = groups
    if mpo_args.process_index:
        return
    path = Path(mpo_args.output_dir) / SETTINGS_NAME
    mixture = {
        data.spec.name: {"rows": len(data.rows), "drawn": len(data.order), "repeat_time": float(data.spec.repeat_time)}
        for data in (dataset.mixture.datasets if dataset else [])
    }
    this = {
        "began": datetime.now().astimezone().isoformat(timespec="seconds"),
        "after_step": start.step,
        "processes": mpo_args.world_size,
        "changed": {name: {"was": was, "is": now} for name, (was, now) in start.changed.items()},
    }
    settings = {
        "model": asdict(model_args),
        "data": asdict(data_args),
        "training": mpo_args.to_dict(),
        "mixture": mixture,
        "starts": [*(_starts(path) if start.step else []), this],
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False, default=str)
    write_atomically(path, [text.encode(), b"\n"])


def _starts(path: Path) -> list[Mapping[str, Any]]:
    """Those that are written down; none where the file was lost or is of an older version."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
