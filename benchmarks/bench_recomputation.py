"""A step with `--grad_checkpoint True`, `auto` and `False`: time and the layers that are computed again.

    python benchmarks/bench_recomputation.py            # about 3 minutes on one core

Forward, loss and backward of the `cpu` model of `training_model` with 4 layers in each tower, log-probs of the
reference from a cache. Three settings take turns in one process and medians are compared, once on short rows and once
on long ones. `auto` may take as many bytes as a long row takes with half of its layers computed again: short rows keep
all, long ones compute some again.
Writes benchmarks/results/recomputation.json.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from bench_training import Timed, rounded
from machine import interleaved_medians, write_results
from training_forms import SCRATCH, our_step
from training_model import SIZES, Shape, Size

from internvl_chat.packed.memory import StepLoad
from internvl_chat.run.recomputation import USED, Recomputation

ROWS = {"short": Shape(2, 125, 200), "long": Shape(7, 250, 400)}
SETTINGS = ("True", "auto", "False")
CPU = torch.device("cpu")


class ChosenStep:
    """A step of one setting on one row; `auto` keeps to a budget of bytes."""

    def __init__(self, setting: str, size: Size, shape: Shape, free: float) -> None:
        self.step = our_step(size, shape, CPU, torch.float32, cached=True)
        self.load = load_of(shape)
        budget = {"True": 0.0, "auto": free / USED, "False": float("inf")}[setting]
        self.choice = Recomputation(self.step.model, half=False, free_bytes=lambda: budget)

    def __call__(self) -> float:
        """Choose and run once; the loss."""
        self.choice.choose(self.load, has_moments=True)
        return self.step()


def load_of(shape: Shape) -> StepLoad:
    """What a step on these pairs computes."""
    tokens = shape.prompt_length - 1 + shape.chosen + shape.rejected
    return StepLoad(tokens, shape.tiles, shape.answer_tokens)


def compare(size: Size, rounds: int) -> list[dict[str, Any]]:
    """All settings on each kind of row."""
    longest = replace(ROWS["long"], tile_tokens=size.tile_tokens)
    layers = size.vision_layers + size.layers
    free = ChosenStep("True", size, longest, 0).choice.memory.peak(load_of(longest), layers // 2).total
    found = []
    for name, row in ROWS.items():
        shape = replace(row, tile_tokens=size.tile_tokens)
        steps = {setting: Timed(ChosenStep(setting, size, shape, free), CPU) for setting in SETTINGS}
        seconds = interleaved_medians(steps, rounds)
        again = {setting: timed.step.choice.number for setting, timed in steps.items()}
        cpu = {setting: timed.cpu_median() for setting, timed in steps.items()}
        found.append(
            {
                "row": name,
                "tokens": load_of(shape).tokens,
                "recomputed_layers": again,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "auto_speedup": cpu["True"] / cpu["auto"],
                "losses": {setting: timed.loss for setting, timed in steps.items()},
            }
        )
    return found


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="recomputation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    SCRATCH.mkdir(exist_ok=True)
    size = replace(SIZES[args.size], vision_layers=4, layers=4) if args.size == "cpu" else SIZES[args.size]
    write_results(args.name, {"layers": size.vision_layers + size.layers, "rows": rounded(compare(size, args.rounds))})


if __name__ == "__main__":
    main()
