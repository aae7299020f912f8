"""Figures of a run's log beside what our own runs had, where model family and size are alike.

`benchmarks/run_figures.py` writes the least and most of every figure over runs (benchmarks/results/run_figures.json).
A figure is as usual within these, and as far again to either side: few runs do not show all that is normal. Whether a
run is well is for `tools.diagnosis` to say: other data have other figures, and no fault for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from internvl_chat.model.json_object import read_object
from tools.curves.log import curve

RANGES = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "run_figures.json"
END = 0.1  # share of the log that is its end, and that is its beginning


@dataclass(frozen=True)
class Figure:
    """A figure of a log: its name, what it means, the log's name of its curve, and what is taken of the curve."""

    name: str
    meaning: str
    curve: str
    take: str = "end"


FIGURES = (
    Figure(
        "reward accuracy, end",
        "Share of pairs whose chosen answer has the higher reward; begins at 0 or around a half, "
        "below a half at the end means that pairs are mislabelled or the learning rate is too low.",
        "rewards/accuracies",
    ),
    Figure(
        "reward margin, end",
        "Reward of chosen minus rejected, 0 at the first step. It should rise; far above our runs the policy "
        "leaves its reference: lower the learning rate or raise beta.",
        "rewards/margins",
    ),
    Figure(
        "reward of chosen, end",
        "Far below 0, chosen answers become less likely than before: the weight of the NLL (rpo_alpha) holds them.",
        "rewards/chosen",
    ),
    Figure("DPO loss, end", "Begins at ln 2 = 0.693 and falls as the margin rises.", "losses/sigmoid"),
    Figure(
        "NLL of chosen, end / begin",
        "Below 1 the chosen answers were learned; far above 1 the run diverged.",
        "nll_loss",
        "ratio",
    ),
    Figure(
        "norm of the gradient, mean",
        "Depends on the model; peaks far above the mean tell of rows worth looking at.",
        "grad_norm",
        "mean",
    ),
)


@dataclass(frozen=True)
class Note:
    """One figure beside those of our runs; `usual` is "" where no run of ours tells."""

    name: str
    value: str
    usual: str
    is_usual: bool
    meaning: str


def measure(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures that a log has, by name."""
    found = {}
    for figure in FIGURES:
        _, values = curve(entries, figure.curve)
        if values:
            found[figure.name] = take(values, figure.take)
    return found


def take(values: Sequence[float], what: str) -> float:
    """The mean of a curve, of its `end`, or the `ratio` of the mean of its end to that of its begin."""
    size = max(1, round(END * len(values)))
    end, begin = fmean(values[-size:]), fmean(values[:size])
    return {"mean": fmean(values), "end": end, "ratio": end / begin if begin else float("inf")}[what]


def read_ranges(path: Path = RANGES) -> dict[str, Any]:
    """What our runs had: `figures` (name -> [least, most]) and `origin`, a sentence; {} where the file is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def model_shape(run: Path) -> str:
    """Family and size of the model in an output folder or its last checkpoint; "" where neither has a config.json.

    A run that saved adapters is told by them: its figures are not those of a run in which all weights move.
    """
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    folder = next((path for path in (run, *reversed(checkpoints)) if (path / "config.json").is_file()), None)
    if folder is None:
        return ""
    config = read_object(folder / "config.json", "every save of the training writes it")
    language, vision = config.get("llm_config", config.get("text_config", config)), config.get("vision_config", {})
    family = (language.get("architectures") or [language.get("model_type", "unknown")])[0]
    size = [f"{part.get('num_hidden_layers')} x {part.get('hidden_size')}" for part in (language, vision) if part]
    adapters = ", adapters" if any(folder.glob("adapter*")) else ""
    return f"{family}, {' and '.join(size)}{adapters}"


def take_notes(entries: Sequence[Mapping[str, Any]], ranges: Mapping[str, Any]) -> list[Note]:
    """Every figure of a log beside its range; without any where `ranges` are {}."""
    meanings = {figure.name: figure.meaning for figure in FIGURES}
    known = ranges.get("figures", {})
    return [_note(name, value, known.get(name), meanings[name]) for name, value in measure(entries).items()]


def _note(name: str, value: float, bounds: Sequence[float] | None, meaning: str) -> Note:
    if bounds is None:
        return Note(name, f"{value:.3g}", "", True, meaning)
    low, high = bounds
    slack = high - low
    return Note(name, f"{value:.3g}", f"{low:.3g} to {high:.3g}", low - slack <= value <= high + slack, meaning)
