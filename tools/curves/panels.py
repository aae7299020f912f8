"""The curves of a log as panels of a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.curves.log import LABELS, curve
from tools.pages.figures import as_svg


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the unit of its y axis, the log's names of its curves, whether an average is drawn, too.

    A rate, lengths, memory or throughput have no average: each entry is what it was.
    """

    title: str
    unit: str
    names: tuple[str, ...]
    has_average: bool = False


PANELS = (
    Panel(
        "Loss and its unweighted parts",
        "nats",
        ("loss", "nll_loss", "losses/sigmoid", "losses/bco_pair"),
        has_average=True,
    ),
    Panel("Rewards", "beta x nats", ("rewards/chosen", "rewards/rejected", "delta"), has_average=True),
    Panel("Reward margin", "beta x nats", ("rewards/margins",), has_average=True),
    Panel("Pairs whose chosen answer has the higher reward", "share", ("rewards/accuracies",), has_average=True),
)
RUN_PANELS = (
    Panel("Held-out answers that are right, with 95 %", "share", ("eval_accuracy",)),
    Panel("Log-probs of held-out answers", "nats since step 0", ("eval_logps/right_change", "eval_logps/wrong_change")),
    Panel("Learning rate", "", ("learning_rate",)),
    Panel("Norm of the gradient", "", ("grad_norm",)),
    Panel("Lengths of answers", "tokens", ("lengths/chosen", "lengths/rejected")),
    Panel("Log-probs of answers", "nats", ("logps/chosen", "logps/rejected")),
    Panel("Throughput", "tokens per second", ("tokens_per_second",)),
    Panel("Peak memory of a process", "GiB", ("peak_memory_gib",)),
)
MAX_POINTS = 600  # of a curve; of longer ones the least and the most of each stretch are drawn
COLOURS = ("#0b5cad", "#b3261e", "#2e7d32", "#6a3d9a")
STYLES = ("-", "--", "-.", ":")  # lines are told apart without colours
FINE_TUNING_PANELS = (
    Panel("Loss", "nats", ("loss",), has_average=True),
    Panel("Learning rate", "", ("learning_rate",)),
)
CRITIC_PANELS = (
    Panel("Loss", "nats", ("loss",), has_average=True),
    Panel("F1 of steps, right and wrong", "share", ("f1/right", "f1/wrong", "f1/macro"), has_average=True),
    Panel("Steps", "share", ("steps/accuracy", "steps/right", "steps/p_right"), has_average=True),
    Panel("Learning rate", "", ("learning_rate",)),
)


def draw_run(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """All panels that are looked at of a run, as one picture."""
    return draw_curves(entries, run_panels(entries))


def panel_svg(panel: Panel, entries: Sequence[Mapping[str, Any]]) -> str:
    """One panel as an SVG document."""

    def draw() -> Figure:
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        draw_panel(figure.subplots(), panel, entries, None)
        return figure

    return as_svg(draw, panel.title)


def describe_panel(panel: Panel, entries: Sequence[Mapping[str, Any]]) -> str:
    """What a panel shows, in words: for those who do not see it."""
    told = []
    for name in panel.names:
        steps, values = curve(entries, name)
        if steps:
            told.append(f"{LABELS[name]} {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at step {steps[-1]}")
    return f"{panel.title}: {'; '.join(told)}"


def absent_panels(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of those panels of a run that the log has nothing for."""
    return [panel.title for panel in run_panels(entries) if not is_in(panel, entries)]


def is_in(panel: Panel, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a log has anything for a panel."""
    return any(name in entry for entry in entries for name in panel.names)


def run_panels(entries: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The panels of a run."""
    return list(dict.fromkeys((*loss_panels(entries), *RUN_PANELS)))  # both have the learning rate


def loss_panels(entries: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """The panels of what a run learned: from preferences, from judged steps, or from answers."""
    kinds = {"rewards/margins": PANELS, "f1/macro": CRITIC_PANELS}
    names = set().union(*entries)
    return next((panels for name, panels in kinds.items() if name in names), FINE_TUNING_PANELS)


def draw_curves(
    entries: Sequence[Mapping[str, Any]], panels: Sequence[Panel], *, title: str = "", window: int | None = None
) -> Figure:
    """Panels two by two; `window` as of `draw_panel`."""
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


def draw_panel(axes: Axes, panel: Panel, entries: Sequence[Mapping[str, Any]], window: int | None) -> None:
    """Draw the curves of one panel that the log has.

    Args:
        axes: to draw on.
        panel: what is drawn.
        entries: the log.
        window: entries that an average spans; None for a tenth of the log.
    """
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.3)
    for name, color, style in zip(panel.names, COLOURS, STYLES, strict=False):
        steps, values = curve(entries, name)
        if not steps:
            continue
        is_alone = not panel.has_average
        raw: dict[str, Any] = {"color": color, "alpha": 1 if is_alone else 0.45, "linewidth": 1.4 if is_alone else 0.8}
        label = LABELS[name]
        axes.plot(*thin(steps, values), style if is_alone else "-", label=label if is_alone else None, **raw)
        if len(steps) < MAX_POINTS / 10:
            axes.plot(steps, values, ".", color=color, alpha=0.6, markersize=3)
        if panel.has_average:
            average = debiased_average(values, window or max(2, len(values) // 10))
            axes.plot(*thin(steps, average), style, label=label, color=color, linewidth=1.8)
        low, high = (curve(entries, f"{name}_{bound}")[1] for bound in ("low", "high"))
        if len(low) == len(high) == len(steps):
            axes.fill_between(steps, low, high, color=color, alpha=0.15)
        axes.plot(*curve(entries, f"eval_{name}"), "o", color=color)
    if len(panel.names) > 1 and axes.lines:
        axes.legend()


def debiased_average(values: Sequence[float], window: int) -> list[float]:
    """The exponential moving average of each value and those before it, divided by the sum of its weights.

    So the first is the first value itself, and the start has no more weight than any other; decay is 1 - 2 / (window +
    1). Values that are not finite are passed over.
    """
    decay = 1 - 2 / (window + 1)
    total = weight = 0.0
    averages = []
    for value in values:
        if math.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1
        averages.append(total / weight if weight else math.nan)
    return averages


def thin(steps: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """A curve of at most MAX_POINTS points: of each stretch its least and its most, so that no spike is lost."""
    if len(steps) <= MAX_POINTS:
        return list(steps), list(values)
    kept: set[int] = {0, len(steps) - 1}
    for stretch in np.array_split(np.arange(len(steps)), MAX_POINTS // 2):
        part = np.asarray(values, dtype=float)[stretch]
        if np.isfinite(part).any():
            kept |= {int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])}
    return [steps[at] for at in sorted(kept)], [values[at] for at in sorted(kept)]
