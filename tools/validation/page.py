"""The report as one HTML file without external requests: verdict, faults with cures and examples, data sets, plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tools.pages.figures import as_svg
from tools.pages.page import render
from tools.validation.summary import Summary
from tools.validation.thumbnails import Thumbnails

TEMPLATE = Path(__file__).with_name("validation.html")
BINS = 60


def validation_page(
    report: Mapping[str, Any], summary: Summary, max_seq_length: int, pictures: Thumbnails | None = None
) -> str:
    """The page of a report (the content of validation.json), its examples with pictures where there are some."""
    plots = draw(summary, max_seq_length)
    return render(TEMPLATE, report=report, sharing=summary.sharing_said(), plots=plots, pictures=pictures or {})


def draw(summary: Summary, max_seq_length: int) -> list[str]:
    """Histograms of tokens, tiles and lengths of answers, an SVG element each: on a phone one lies below the other."""
    plots = (
        lambda axes: draw_tokens(axes, summary.tokens, max_seq_length),
        lambda axes: _draw_tiles(axes, summary),
        lambda axes: _draw_lengths(axes, summary),
    )
    return [_draw(plot, f"validation {number}") for number, plot in enumerate(plots)]


def _draw(plot: Callable[[Axes], None], name: str) -> str:
    """A plot as an SVG element whose axes count in whole numbers."""

    def draw_counts() -> Figure:
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.subplots()
        plot(axes)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "linear":
                axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return figure

    text = as_svg(draw_counts, name)
    return text[text.index("<svg") :]


def draw_tokens(axes: Axes, tokens: list[int], max_seq_length: int) -> None:
    """Draw how many rows have how many tokens, and their limit."""
    axes.set_title(f"Prompt and longest answer, {len(tokens):,} rows")
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    if tokens:
        # bars share the way to the limit: those of short rows alone would be thinner than a line
        axes.hist(tokens, BINS, range=(0, max(max_seq_length, *tokens)), color="#4078c0")
        axes.axvline(max_seq_length, color="#cf222e", linestyle="--", label="max_seq_length")
        axes.legend()


def _draw_tiles(axes: Axes, summary: Summary) -> None:
    axes.set_title(f"Tiles, {summary.tiles.total():,} rows with images")
    axes.set_xlabel("tiles, thumbnails counted")
    axes.set_ylabel("rows")
    if summary.tiles:  # one number of tiles is a bar of its own width, not a plot that begins at 0.6
        axes.set_xlim(min(summary.tiles) - 1, max(summary.tiles) + 1)
    else:
        axes.set(xlim=(0, 12), ylim=(0, 1))
    axes.bar(list(summary.tiles), list(summary.tiles.values()), color="#4078c0")


def _draw_lengths(axes: Axes, summary: Summary) -> None:
    axes.set_title("Answers")
    axes.set_xlabel("characters, logarithmic")
    axes.set_ylabel("rows")
    edges = np.geomspace(1, max([10, *(int(sizes.max()) for sizes in summary.chosen if len(sizes))]), BINS)
    for name, color, parts in (("chosen", "#1a7f37", summary.chosen), ("rejected", "#cf222e", summary.rejected)):
        counts = sum(np.histogram(np.maximum(part, 1), edges)[0] for part in parts)
        axes.stairs(np.broadcast_to(counts, BINS - 1), edges, color=color, label=name)
    axes.set_xscale("log")
    axes.legend()
