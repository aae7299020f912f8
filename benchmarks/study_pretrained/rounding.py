"""How much of a run with all weights is left when they are written in the bfloat16 of the checkpoint they came from.

A run keeps float32 weights and computes with them in bfloat16, so that its own forward passes see them rounded as the
export does. A weight that moved by less than half a unit of its last place is in the export what it was: bfloat16 has
8 bits, half a unit of 0.05 is 1.2e-4, and AdamW moves a weight by about the learning rate at each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from internvl_chat.checkpoint.export import EXACT_WEIGHTS, RESUME_FOLDER
from internvl_chat.model.upstream import PREFIX_CHECKPOINT_DIR

WEIGHTS = "model.safetensors"


def last_saved(run: Path) -> Path | None:
    """The checkpoint of a run that has the weights it stopped with in float32; None where none was saved."""
    found = run.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{RESUME_FOLDER}/{EXACT_WEIGHTS}")
    return max((path.parents[1] for path in found), key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def measure_rounding(start: Path, saved: Path) -> dict[str, float]:
    """What became of the weights that training moved.

    Args:
        start: checkpoint in bfloat16 that was trained.
        saved: checkpoint of the run.

    Returns:
        `unmoved`: percent of the moved weights that the export has as they were; `kept`: the part of the change, along
        itself, that the export holds (1: all, on average); `error`: length of what rounding adds, over that of the
        change; `largest`: the largest change of a weight.
    """
    moved, same, along, squares, error, largest = 0, 0, 0.0, 0.0, 0.0, 0.0
    for before, exact, written in _triples(start, saved):
        change, left = exact - before, written - before
        touched = change != 0
        moved, same = moved + int(touched.sum()), same + int((touched & (left == 0)).sum())
        along, squares = along + float((left * change).sum()), squares + float(change.square().sum())
        error, largest = error + float((left - change).square().sum()), max(largest, float(change.abs().max()))
    return {
        "moved": moved,
        "unmoved": round(100 * same / moved, 1),
        "kept": round(along / squares, 3),
        "error": round((error / squares) ** 0.5, 3),
        "largest": float(f"{largest:.3g}"),
    }


def _triples(start: Path, saved: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each weight before training, after it, and as it was written; in float64."""
    with (
        safe_open(start / WEIGHTS, framework="pt") as before,
        safe_open(saved / RESUME_FOLDER / EXACT_WEIGHTS, framework="pt") as exact,
        safe_open(saved / WEIGHTS, framework="pt") as written,
    ):
        for name in sorted({*before.keys()} & {*exact.keys()}):
            yield tuple(file.get_tensor(name).double() for file in (before, exact, written))
