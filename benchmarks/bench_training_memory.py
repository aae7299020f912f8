"""Peak memory of one optimization step above weights, each form and shape in a process of its own.

    python benchmarks/bench_training_memory.py                # all points, about 9 minutes on one core; needs 20 GiB
    python benchmarks/bench_training_memory.py --only goal    # 13 tiles, 152,000 words, answers of 250 and 400 tokens
    python benchmarks/bench_training_memory.py --only growth  # by tiles, answers, pairs of a prompt; needs 4 GiB
    python benchmarks/bench_training_memory.py --only length  # rows of 2,000 to 8,000 tokens; 3 minutes

The figure is the highest resident set of the process during a step (VmHWM of the kernel, set back before the step)
minus that right before it: activations, logits, gradients and workspaces, not weights of policy and reference nor
inputs. There is no optimizer in these processes. Batches are one pair, or several of one prompt; baselines run several
pairs as one batch here. The model is the `cpu` one of `training_model` with a decoder 512 wide; growth is measured with
8,000 words. Writes training_memory.json, training_memory_growth.json and training_memory_length.json to results/.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from machine import write_results
from training_forms import FORMS, SCRATCH
from training_model import SIZES, Shape, with_vocabulary

WIDTH = 512
GOAL = Shape(13, 250, 400)
PAIR = ("original", "ours_cached_reference")
GROWTH = {  # what grows -> (value, shape), all at SMALL words
    "tiles": [(n, Shape(n, 250, 400)) for n in (1, 4, 7, 13)],
    "answer_length": [(n, Shape(4, n, n)) for n in (250, 500, 1000)],
    "pairs_of_a_prompt": [(n, Shape(4, 250, 400, pairs=n, same_prompt=True)) for n in (1, 2, 4)],
}
LENGTH = [Shape(tiles, 250, 400) for tiles in (8, 16, 32)]
LARGE, SMALL = 152_000, 8_000  # words of the vocabulary
FILES = {"goal": "training_memory", "growth": "training_memory_growth", "length": "training_memory_length"}


def memory_of(field: str) -> int:
    """Bytes of a field of this process's /proc status, such as VmRSS."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure_here(form: str, shape: Shape, vocabulary: int, size_name: str) -> dict[str, float]:
    """Run one step in this process: its peak above what was there before, and the parts of that known by counting."""
    # If memory runs out, the kernel is to end this process and no other.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    torch.set_num_threads(1)
    SCRATCH.mkdir(exist_ok=True)
    size = with_vocabulary(SIZES[size_name], vocabulary, WIDTH)
    step = FORMS[form](size, replace(shape, tile_tokens=size.tile_tokens), torch.device("cpu"), torch.float32)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM back to VmRSS
    before = memory_of("VmRSS")
    loss = step()
    gradients = sum(p.grad.nbytes for p in step.model.parameters() if p.grad is not None)
    return {"peak_mib": (memory_of("VmHWM") - before) / 2**20, "gradients_mib": gradients / 2**20, "loss": loss}


def measure(form: str, shape: Shape, vocabulary: int, size_name: str) -> dict[str, Any]:
    """The same in a new process."""
    asked = json.dumps({"form": form, "shape": asdict(shape), "vocabulary": vocabulary, "size_name": size_name})
    run = subprocess.run([sys.executable, __file__, "--child", asked], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{asked} ended with {run.returncode}; is there enough memory? {run.stderr[-2000:]}")
    figures = json.loads(run.stdout.splitlines()[-1])
    print(form, shape, vocabulary, figures, file=sys.stderr, flush=True)
    return {name: float(f"{value:.5g}") for name, value in figures.items()}


def goal(size_name: str) -> dict[str, Any]:
    """All forms at 13 tiles and the large vocabulary, and how many times less than the original each one needs."""
    figures = {form: measure(form, GOAL, LARGE, size_name) for form in FORMS}
    original = figures["original"]["peak_mib"]
    return {
        "shape": asdict(GOAL),
        "vocabulary": LARGE,
        "forms": figures,
        "original_over": {form: round(original / figures[form]["peak_mib"], 2) for form in figures},
    }


def growth(size_name: str) -> dict[str, Any]:
    """How the peak grows with tiles, answers and pairs."""
    return {
        name: [
            {"value": value, **{form: measure(form, shape, SMALL, size_name)["peak_mib"] for form in PAIR}}
            for value, shape in points
        ]
        for name, points in GROWTH.items()
    }


def length(size_name: str) -> list[dict[str, Any]]:
    """How the peak grows with the tokens of a row, every layer run again in the backward pass."""
    points = []
    for shape in LENGTH:
        figures = measure("ours_cached_reference", shape, SMALL, size_name)
        tokens = shape.prompt_length + max(shape.chosen, shape.rejected)
        points.append({"tokens": tokens, "tiles": shape.tiles, "peak_mib": figures["peak_mib"]})
    return points


def main(argv: Sequence[str] | None = None) -> None:
    """Measure in child processes and write the results; with --child be such a process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(FILES), help="one of the parts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        asked = json.loads(args.child)
        print(json.dumps(measure_here(**{**asked, "shape": Shape(**asked["shape"])})))
        return
    parts = {"goal": goal, "growth": growth, "length": length}
    settings = {"width": WIDTH, "method": "VmHWM in a step minus VmRSS before it"}
    for name in [args.only] if args.only else parts:
        write_results(FILES[name], {**settings, name: parts[name]("cpu")})


if __name__ == "__main__":
    main()
