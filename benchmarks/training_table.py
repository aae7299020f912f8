"""The table of README's section on speed, from the committed results, to paste there; a test holds README against it.

    python benchmarks/training_table.py       # results/training.json, training_run.json -> lines of Markdown

A step is `forms` of the first shape of training.json (`cpu_seconds` over pairs); a run is `run_1` and `run_3` of
training_run.json, CPU seconds of a pair and epoch with the filling of the cache, over those of `original` there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from machine import RESULTS
from plot_training import per_pair

ROWS = (  # what the row says, the form of a step, the form of a run
    ("form of the original", "original", "original"),
    ("TRL 1.16, computing what it does on a GPU", "trl_gpu_form", None),
    ("ours, reference model in memory", "ours_model_reference", None),
    ("ours, `--reference cache`", "ours_cached_reference", "cache"),
    ("ours, cache, 4 pairs of a prompt in a micro-batch", "ours_grouped", "4 pairs per prompt, grouped"),
    ("ours, cache, 4 questions about an image in a micro-batch", None, "4 questions per image, grouped"),
)
HEADER = (
    "| a pair of 7 tiles, answers of 250 and 400 tokens | seconds per step | speed | a run of 1 epoch | 3 epochs |",
    "|---|---|---|---|---|",
)


def table(results: Path = RESULTS) -> list[str]:
    """Lines of the table, for the results in a folder; without rows of which nothing was measured."""
    steps = json.loads((results / "training.json").read_text(encoding="utf-8"))["shapes"][0]
    runs = json.loads((results / "training_run.json").read_text(encoding="utf-8"))["forms"]
    rows = [(name, _cells(steps, runs, *forms)) for name, *forms in ROWS]
    return [*HEADER, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows if any(cells))]


def _cells(steps: dict[str, Any], runs: dict[str, Any], step: str | None, run: str | None) -> list[str]:
    """Seconds and speed of a step, speed of runs, which without a cache are their steps; empty where not measured."""
    cells = ["", "", "", ""]
    if step in steps["forms"]:
        seconds, original = (per_pair(steps, form, "cpu_seconds") for form in (step, "original"))
        speed = f"{original / seconds:.1f}"
        cells = [f"{seconds:.2f}", speed, speed, speed]
    if run is not None:
        cells[2:] = (f"{runs['original'][epochs] / runs[run][epochs]:.1f}" for epochs in ("run_1", "run_3"))
    return cells


if __name__ == "__main__":
    print("\n".join(table()))
