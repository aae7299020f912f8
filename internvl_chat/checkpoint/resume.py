"""What a run goes on from: checkpoints that are whole or not there, their checksums, and the weights as trained.

A checkpoint is written under `saving/` and gets its name when all ranks are done and `checksums.json` names every file
of it. Whatever happens before, a kill, a full disk, a lost node, leaves the one before as it was. Whatever happens
later to a file of it is noticed by its checksum, and the run goes on from the newest that is as it was saved.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from internvl_chat.checkpoint.export import stored_dtypes
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

SAVING = "saving"  # folder of unfinished checkpoints
CHECKSUMS = "checksums.json"
PREFERENCE_STATE = "preference_state.json"
RESUME_FOLDER = "resume"  # of a checkpoint: what only the run itself reads; no weights beside the exported ones
EXACT_WEIGHTS = "weights.safetensors"
REFERENCE_WEIGHTS = "reference.safetensors"
BLOCK = 1 << 24  # bytes read at once


def checksum(path: Path, *, flush: bool = False) -> str:
    """XXH3-128 of a file; with `flush` the file is on the disk, not in a cache, when this returns."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
        if flush:
            os.fsync(file.fileno())
    return digest.hexdigest()


def checksums(folder: Path, rank: int = 0, world_size: int = 1) -> dict[str, dict[str, Any]]:
    """Size in bytes and checksum of every file below a folder, which ranks share; a collective."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    mine = {
        name: {"size": (folder / name).stat().st_size, "xxh3_128": checksum(folder / name, flush=True)}
        for name in gather_objects(found)[0][rank::world_size]
    }
    return {name: entry for part in gather_objects(mine) for name, entry in part.items()}


def publish(fresh: Path, final: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write down the checksums of a finished checkpoint and give it its name, in place of one that had it."""
    content = {"saved": time.time(), "files": dict(sorted(files.items()))}
    (fresh / CHECKSUMS).write_text(json.dumps(content, indent=1) + "\n")
    checksum(fresh / CHECKSUMS, flush=True)
    replaced = fresh.with_name(f"{fresh.name}.replaced")
    if final.exists():
        final.replace(replaced)
    fresh.replace(final)
    shutil.rmtree(fresh.parent)


def damage(folder: Path, rank: int = 0, world_size: int = 1) -> str | None:
    """What is wrong with a checkpoint, naming the file; None where it is as it was saved. Ranks share; a collective."""
    try:
        files = json.loads((folder / CHECKSUMS).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / CHECKSUMS} cannot be read ({error}): it was not written to its end"
    found = _first_difference(folder, list(files.items())[rank::world_size])
    return next((finding for finding in gather_objects(found) if finding), None)


def _first_difference(folder: Path, files: Iterable[tuple[str, dict[str, Any]]]) -> str | None:
    for name, saved in files:
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != saved["size"]:
            return f"{path} has {path.stat().st_size} bytes instead of {saved['size']}"
        if checksum(path) != saved["xxh3_128"]:
            return f"{path} is not what was saved: its checksum differs"
    return None


def last_whole_checkpoint(folder: Path, rank: int = 0, world_size: int = 1) -> Path | None:
    """The checkpoint of a run that was saved last and is as it was saved; damaged ones are named in the log.

    A collective. Last by the time in it: an older run that was overwritten may have left higher steps.
    """
    for path in gather_objects(_newest_first(folder))[0]:
        found = damage(path, rank, world_size)
        if found is None:
            return path
        logger.warning("%s: not resumed from, %s", path, found)
    return None


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoints by the time of saving; those that do not say it first, to be named."""
    return sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*[0-9]"), key=_saved_at, reverse=True)


def _saved_at(folder: Path) -> tuple[float, int]:
    step = int(folder.name.rpartition("-")[2])
    try:
        return float(json.loads((folder / CHECKSUMS).read_text())["saved"]), step
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf, step


def save_exact_weights(model: torch.nn.Module, source: Path, folder: Path) -> None:
    """Save the weights that the export cannot give back: rounded to the format of `source`, or under other names."""
    dtypes = stored_dtypes(source)
    rounded: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, weight in model.state_dict().items():
        is_exact = name in dtypes and torch.equal(weight.to(dtypes[name]).to(weight.dtype), weight)
        if not is_exact and weight.data_ptr() not in seen:  # tied weights once
            seen.add(weight.data_ptr())
            rounded[name] = weight
    save_weights(rounded, folder / RESUME_FOLDER / EXACT_WEIGHTS)


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Save tensors by name, unless there are none."""
    if weights:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, path)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Put saved tensors into a model, where there are any.

    Raises:
        ValueError: the model has no weight of such a name.
    """
    if path.is_file():
        unknown = model.load_state_dict(load_file(path), strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{path}: the model has no weights {unknown[:3]}: is this a checkpoint of another model?")
