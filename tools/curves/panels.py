"""The curves of a log as panels of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.curves.log import curve

LABELS = {
    "loss": "loss",
    "nll_loss": "NLL of chosen",
    "losses/sigmoid": "DPO (sigmoid)",
    "losses/bco_pair": "BCO",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
    "delta": "BCO's delta",
    "rewards/margins": "margin",
    "rewards/accuracies": "chosen wins",
    "learning_rate": "learning rate",
    "grad_norm": "norm of the gradient",
    "lengths/chosen": "chosen",
    "lengths/rejected": "rejected",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
    "pairs_per_second": "pairs",
    "tokens_per_second": "tokens",
    "peak_memory_gib": "peak memory",
}


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the unit of its y axis, and the log's names of its curves."""

    title: str
    unit: str
    names: tuple[str, ...]


PANELS = (
    Panel("Loss and its unweighted parts", "nats", ("loss", "nll_loss", "losses/sigmoid", "losses/bco_pair")),
    Panel("Rewards", "beta x nats", ("rewards/chosen", "rewards/rejected", "delta")),
    Panel("Reward margin", "beta x nats", ("rewards/margins",)),
    Panel("Pairs whose chosen answer has the higher reward", "share", ("rewards/accuracies",)),
)
RUN_PANELS = (
    Panel("Learning rate", "", ("learning_rate",)),
    Panel("Norm of the gradient", "", ("grad_norm",)),
    Panel("Lengths of answers", "tokens", ("lengths/chosen", "lengths/rejected")),
    Panel("Log-probs of answers", "nats", ("logps/chosen", "logps/rejected")),
    Panel("Throughput", "tokens per second", ("tokens_per_second",)),
    Panel("Peak memory of a process", "GiB", ("peak_memory_gib",)),
)
MAX_POINTS = 2_000  # of a curve of a whole run; longer logs are drawn by every n-th entry
FINE_TUNING_PANELS = (Panel("Loss", "nats", ("loss",)), Panel("Learning rate", "", ("learning_rate",)))


def draw_run(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """All panels that are looked at of a run."""
    return draw_curves(entries[:: 1 + len(entries) // MAX_POINTS], run_panels(entries))


def absent_panels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of those panels of `draw_run` that the log has nothing for."""
    known = {name for entry in entries for name in entry}
    return [panel.title for panel in run_panels(entries) if known.isdisjoint(panel.names)]


def run_panels(entries: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The panels of a run, by whether it learned from preferences."""
    panels = PANELS if any("rewards/margins" in entry for entry in entries) else FINE_TUNING_PANELS
    return list(dict.fromkeys((*panels, *RUN_PANELS)))  # both have the learning rate


def draw_curves(
    entries: Sequence[Mapping[str, Any]], panels: Sequence[Panel], *, title: str = "", window: int = 20
) -> Figure:
    """Panels two by two."""
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(11, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    places = figure.subplots(rows, 2, squeeze=False).flat
    for axes, panel in zip(places, panels, strict=False):
        draw_panel(axes, panel, entries, window)
    for axes in places:  # the last place of an odd number
        axes.set_axis_off()
    return figure


def draw_panel(axes: Axes, panel: Panel, entries: Sequence[Mapping[str, Any]], window: int) -> None:
    """Draw the curves of one panel that the log has."""
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.3)
    for name in panel.names:
        steps, values = curve(entries, name)
        if not steps:
            continue
        [line] = axes.plot(steps, running_mean(values, window), label=LABELS[name], linewidth=1.8)
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.7)
        axes.plot(*curve(entries, f"eval_{name}"), "o", color=line.get_color())
    if len(panel.names) > 1 and axes.lines:
        axes.legend()


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    starts = (max(0, end - window) for end in range(1, len(values) + 1))
    return [sum(values[start:end]) / (end - start) for end, start in enumerate(starts, 1)]
