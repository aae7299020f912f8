"""A reliability diagram: of the steps with a score, how many are right; a calibrated critic lies on the diagonal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.critic_benchmark.metrics import BINS


def plot_calibration(calibration: Mapping[str, Any], threshold: float) -> Figure:
    """The share of right steps and the number of steps by score; `calibration` as of `metrics.calibration`."""
    bins = calibration["bins"]
    filled = [one for one in bins if one["steps"]]
    figure = Figure(figsize=(5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="tab:grey", linestyle="--", label="calibrated")
    upper.plot([one["mean_score"] for one in filled], [one["right"] for one in filled], marker="o", label="right steps")
    lower.bar([(i + 0.5) / BINS for i in range(BINS)], [one["steps"] for one in bins], width=0.9 / BINS)
    for axes in (upper, lower):
        axes.axvline(threshold, color="tab:red", linewidth=1, label=f"threshold {threshold:.3g}")
        axes.grid(alpha=0.3)
    upper.set_ylabel("share of right steps")
    upper.set_title(f"expected calibration error {calibration['expected_error']} %", fontsize=10)
    upper.legend()
    lower.set_ylabel("steps")
    lower.set_xlabel("score of a step")
    return figure


def png(figure: Figure) -> bytes:
    """The picture of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
