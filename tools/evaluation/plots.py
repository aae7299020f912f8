"""An evaluation as a picture: accuracies with their intervals, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.evaluation.table import CHOICES, answered_ways

PANEL = 3.2  # inches of a panel of curves
HEIGHT = 0.38  # of a bar; two fit a line


class Line(NamedTuple):
    """One accuracy: its title, what was measured, and what was before, {} where that is unknown."""

    title: str
    after: Mapping[str, Any]
    before: Mapping[str, Any]


def plot_accuracies(report: Mapping[str, Any]) -> Figure:
    """Bars of all accuracies of a report of `evaluate`, with intervals of 95 %; what was before beside them.

    Where a critic chose among answers, accuracy over the number of answers below, a panel for each way of asking.
    """
    before = report.get("before", {})
    ways = [*answered_ways(report), ("probes", report.get("probes", {}))]
    lines = [
        Line(f"{way}, {name}", found, before.get(way, {}).get(name, {}))
        for way, groups in ways
        for name, found in groups.items()
    ]
    places = range(len(lines) - 1, -1, -1)  # the first on top
    placed = list(zip(places, lines, strict=True))
    chosen = report.get("best_of", {})
    heights = [1.2 + 0.5 * len(lines), *[PANEL] * len(chosen)]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes, *panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for panel, (way, found) in zip(panels, chosen.items(), strict=True):
        draw_choices(panel, way, found)
    draw_bars(axes, "before", "tab:grey", [(at + HEIGHT / 2, one.before) for at, one in placed])
    draw_bars(axes, "after", "tab:blue", [(at - HEIGHT / 2, one.after) for at, one in placed])
    axes.set_yticks(places, [line.title for line in lines])
    axes.set_xlabel("right answers, %")
    axes.grid(axis="x", alpha=0.3)
    if before:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, not over one
    return figure


def draw_choices(axes: Axes, way: str, found: Mapping[str, Any]) -> None:
    """Accuracy over the number of answers by each way of choosing, with intervals of 95 %."""
    counts = [row["n"] for row in found["over"]]
    for name, title in CHOICES.items():
        axes.plot(counts, [row[name]["percent"] for row in found["over"]], marker="o", markersize=3, label=title)
        low, high = np.transpose([row[name]["interval"] for row in found["over"]])
        axes.fill_between(counts, low, high, alpha=0.12)
    if "greedy" in found:
        axes.axhline(found["greedy"]["percent"], color="black", linestyle=":", label="most likely")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, map(str, counts))
    axes.set_xlabel("answers to choose from")
    axes.set_ylabel(f"{way}: right, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def draw_bars(axes: Axes, label: str, colour: str, bars: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    """Draw the accuracies that are known, each at its height."""
    known = [(at, found) for at, found in bars if found]
    if known:
        values, bounds = [found["percent"] for _, found in known], [_bounds(found) for _, found in known]
        heights = [at for at, _ in known]
        axes.barh(heights, values, HEIGHT, xerr=np.transpose(bounds), capsize=3, color=colour, label=label)


def _bounds(found: Mapping[str, Any]) -> tuple[float, float]:
    """Lengths of the error bar to the left and to the right; reports of older versions have none."""
    low, high = found.get("interval", (found["percent"], found["percent"]))
    return max(0.0, found["percent"] - low), max(0.0, high - found["percent"])


def save_plot(report: Mapping[str, Any], path: Path) -> None:
    """Write `plot_accuracies` as .png, .pdf or .svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_accuracies(report).savefig(path, dpi=120)
