"""The committed figures of the training benchmarks as one picture.

python benchmarks/plot_training.py        # results/training*.json, simulate_ranks.json -> results/training.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LABELS = {
    "original": "original's form",
    "trl": "TRL DPOTrainer on a CPU",
    "trl_gpu_form": "TRL in the form of a GPU",
    "ours_model_reference": "ours, model reference",
    "ours_cached_reference": "ours, cached reference",
    "ours_grouped": "ours, cached, 4 pairs of a prompt",
}
COLOURS = dict(zip(LABELS, ("#8c8c8c", "#e0cd8f", "#c9a227", "#7fb3d5", "#1f618d", "#0b3c5d"), strict=True))
SOURCES = ("training", "training_sweeps", "training_memory", "training_memory_growth", "simulate_ranks")


def read_results(folder: Path) -> dict[str, Any]:
    """The result files by name.

    Raises:
        FileNotFoundError: one is not there; names the benchmark that writes it.
    """
    absent = [name for name in SOURCES if not (folder / f"{name}.json").is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder}: no {absent}; run bench_training*.py (also --part sweeps), simulate_ranks.py"
        )
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in SOURCES}


def per_pair(point: Mapping[str, Any], form: str, clock: str) -> float:
    """Seconds of a pair in a form of a measured point."""
    figures = point["forms"][form]
    return figures[clock] / (figures["pairs_per_second"] * figures["seconds"])


def draw_speedups(axes: Axes, results: Mapping[str, Any]) -> None:
    """Speed over the original's form on the fixed shapes, with the FLOP bounds as black lines."""
    ticks = []
    for place, point in enumerate(results["training"]["shapes"]):
        shape = point["shape"]
        ticks.append(f"{shape['tiles']} tiles, answers of {shape['chosen']} and {shape['rejected']}")
        forms = list(point["forms"])
        for index, form in enumerate(forms):
            x = place * (len(LABELS) + 1) + index
            speed = per_pair(point, "original", "cpu_seconds") / per_pair(point, form, "cpu_seconds")
            work = point["forms"]["original"]["gflop_per_pair"] / point["forms"][form]["gflop_per_pair"]
            axes.bar(x, speed, 0.85, color=COLOURS[form], label=LABELS[form] if place == 0 else None)
            axes.hlines(work, x - 0.42, x + 0.42, color="black", linewidth=1.5)
            axes.text(x, max(speed, work) + 0.06, f"{speed:.2f}", ha="center", fontsize=8)
    axes.set_xticks([place * (len(LABELS) + 1) + 2 for place in range(len(ticks))], ticks)
    axes.set_title("Pairs per second over the original's form (lines: FLOP bound)")
    axes.legend(fontsize=8)


def draw_tiles(axes: Axes, results: Mapping[str, Any]) -> None:
    """CPU seconds of a pair by tiles."""
    points = results["training_sweeps"]["tiles"]
    tiles = [int(point["point"]) for point in points]
    for form in points[0]["forms"]:
        seconds = [per_pair(point, form, "cpu_seconds") for point in points]
        axes.plot(tiles, seconds, "o-", color=COLOURS[form], label=LABELS[form])
    axes.set(xlabel="tiles", ylabel="seconds per pair", xticks=tiles, ylim=(0, None))
    axes.set_title("Time of a step, answers of 250 and 400 tokens")
    axes.legend(fontsize=8)


def draw_answers(axes: Axes, results: Mapping[str, Any]) -> None:
    """CPU seconds of a pair by the length of its answers, 4 tiles."""
    points = results["training_sweeps"]["answer_length"]
    lengths = [int(point["point"]) for point in points]
    for form in points[0]["forms"]:
        seconds = [per_pair(point, form, "cpu_seconds") for point in points]
        axes.plot(lengths, seconds, "o-", color=COLOURS[form], label=LABELS[form])
    axes.set(xlabel="tokens of each answer", ylabel="seconds per pair", xticks=lengths, ylim=(0, None))
    axes.set_title("Time of a step, 4 tiles")
    axes.legend(fontsize=8)


def draw_memory_growth(axes: Axes, results: Mapping[str, Any]) -> None:
    """Peak above weights by tiles, with a small vocabulary."""
    points = results["training_memory_growth"]["growth"]["tiles"]
    tiles = [point["value"] for point in points]
    for form in (name for name in points[0] if name != "value"):
        axes.plot(tiles, [point[form] / 1024 for point in points], "o-", color=COLOURS[form], label=LABELS[form])
    axes.set(xlabel="tiles", ylabel="GiB", xticks=tiles, ylim=(0, None))
    axes.set_title("Peak of a step above weights, 8,000 words")
    axes.legend(fontsize=8)


def draw_memory(axes: Axes, results: Mapping[str, Any]) -> None:
    """Peak above weights at the goal shape."""
    goal = results["training_memory"]["goal"]
    for index, (form, figures) in enumerate(goal["forms"].items()):
        gib = figures["peak_mib"] / 1024
        axes.bar(index, gib, color=COLOURS[form])
        axes.text(index, gib, f"{gib:.1f} GiB", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(
        range(len(goal["forms"])), [LABELS[form].replace(", ", ",\n") for form in goal["forms"]], fontsize=8
    )
    axes.set(ylabel="GiB")
    axes.set_title(f"Peak of a step above weights: {goal['shape']['tiles']} tiles, {goal['vocabulary']:,} words")


def draw_ranks(axes: Axes, results: Mapping[str, Any]) -> None:
    """Simulated efficiency by ranks, 1024 pairs per step."""
    rows = [row for row in results["simulate_ranks"]["rows"] if row["pairs_per_step"] == 1024]
    ranks = np.array([row["ranks"] for row in rows])
    colours = {"original": "#8c8c8c", "packed": "#7fb3d5", "balanced_by_text": "#c9a227", "balanced": "#1f618d"}
    for form, colour in colours.items():
        axes.plot(ranks, [row["forms"][form]["efficiency"] for row in rows], "o-", color=colour, label=form)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set(xlabel="ranks under ZeRO-3", ylabel="efficiency", ylim=(0, 1.02))
    axes.set_title("Simulated: share of the ranks at work, 1024 pairs per step")
    axes.legend(fontsize=8)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--out", type=Path, default=RESULTS / "training.png")
    args = parser.parse_args(argv)
    results = read_results(args.results)
    figure = Figure(figsize=(18, 9), layout="constrained")
    panels = (draw_speedups, draw_tiles, draw_answers, draw_memory, draw_memory_growth, draw_ranks)
    for draw, axes in zip(panels, figure.subplots(2, 3).flat, strict=True):
        draw(axes, results)
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(args.out)


if __name__ == "__main__":
    main()
