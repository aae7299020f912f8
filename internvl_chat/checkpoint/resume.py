"""What a run continues from: the newest checkpoint that is as it was saved, and the weights in it.

Checkpoints are there whole or not at all (`files`). If a file of one changes later, its checksum tells, and the run
continues from the newest that is undamaged.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from internvl_chat.checkpoint.files import CHECKSUMS, damage, finish_publishing
from internvl_chat.model.upstream import PREFIX_CHECKPOINT_DIR
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

PREFERENCE_STATE = "preference_state.json"
REFERENCE_WEIGHTS = "reference.safetensors"


def last_whole_checkpoint(folder: Path, rank: int = 0, world_size: int = 1) -> Path | None:
    """The checkpoint of a run that was saved last and is as it was saved; damaged ones are named in the log.

    A collective. Last by the time that is written in it: an older run in the same folder may have left higher steps.
    """
    for path in gather_objects(_newest_first(folder) if rank == 0 else None)[0]:
        found = damage(path, rank, world_size)
        if found is None:
            return path
        logger.warning("%s: not resumed from, %s", path, found)
    return None


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoints by the time of saving; those without one come first, so that they are named in the log."""
    finish_publishing(folder)
    return sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*[0-9]"), key=_saved_at, reverse=True)


def _saved_at(folder: Path) -> tuple[float, int]:
    step = int(folder.name.rpartition("-")[2])
    try:
        return float(json.loads((folder / CHECKSUMS).read_text())["saved"]), step
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf, step


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Put saved tensors into a model, where there are any.

    Raises:
        ValueError: the model has no weight of such a name.
    """
    if path.is_file():
        unknown = model.load_state_dict(load_file(path), strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{path}: the model has no weights {unknown[:3]}: is this a checkpoint of another model?")
