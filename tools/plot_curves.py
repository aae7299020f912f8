"""The curves of a training run as a picture: loss and its parts, rewards, margin, how often the chosen answer wins.

    python tools/plot_curves.py --run work_dirs/mpo --out work_dirs/mpo/curves.png

Reads the log that every run leaves in trainer_state.json. Thin lines are single entries, thick ones their running mean;
dots are evaluations during training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LOG_NAME = "trainer_state.json"
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
FINE_TUNING_PANELS = (Panel("Loss", "nats", ("loss",)), Panel("Learning rate", "", ("learning_rate",)))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output folder of a training, or a checkpoint in it")
    parser.add_argument("--out", type=Path, required=True, help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--title", default="", help="above the plots; default: the run's folder")
    parser.add_argument("--window", type=int, default=20, help="log entries in a running mean")
    return parser.parse_args(argv)


def plot_curves(args: argparse.Namespace) -> None:
    """Draw the curves of `args.run` to `args.out`; `args` as of `parse_arguments`.

    Raises:
        FileNotFoundError: the run left no log.
        ValueError: its log is empty, or the window is below 1.
    """
    if args.window < 1:
        raise ValueError(f"--window {args.window} must be at least 1")
    entries = read_log(args.run)
    is_preference = any("rewards/margins" in entry for entry in entries)
    panels = PANELS if is_preference else FINE_TUNING_PANELS
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(entries, panels, title=args.title or str(args.run), window=args.window).savefig(args.out, dpi=120)


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


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log entries of a run, in order of steps.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: it has no entry of a training step.
    """
    path = run / LOG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such log; --run names the output folder of a training that has saved")
    entries = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    if not any("loss" in entry for entry in entries):
        raise ValueError(
            f"{path}: none of its {len(entries)} entries is of a training step; train with --logging_steps 1"
        )
    return entries


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


def curve(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity of the log."""
    found = [(entry["step"], entry[name]) for entry in entries if name in entry]
    return [step for step, _ in found], [value for _, value in found]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    starts = (max(0, end - window) for end in range(1, len(values) + 1))
    return [sum(values[start:end]) / (end - start) for end, start in enumerate(starts, 1)]


if __name__ == "__main__":
    plot_curves(parse_arguments())
