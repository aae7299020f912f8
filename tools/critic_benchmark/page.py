"""A critic's figures as one HTML page, with the answers where it and the labels disagree most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_chat.data.images import ImageError, load_image
from tools.critic_benchmark.metrics import ScoredRow
from tools.critic_benchmark.plots import plot_calibration, png
from tools.critic_benchmark.rows import NEUTRAL, RIGHT
from tools.critic_benchmark.table import NAMES
from tools.pages.page import data_uri, render
from tools.pages.pictures import Picture, picture_uri

MAX_SIDE = 360  # pixels of a picture
LABELS = {1: "right", 0: "neutral", -1: "wrong"}
KINDS = {False: "Wrong steps that it takes for right", True: "Right steps that it takes for wrong"}


@dataclass(frozen=True)
class Step:
    """A step as it is shown: `label` by people, `score` by the critic, and whether they disagree."""

    text: str
    label: str
    score: float | None
    called: str
    disagrees: bool


@dataclass(frozen=True)
class ShownAnswer:
    """An answer as it is shown."""

    place: str
    source: str
    question: str
    pictures: list[Picture]
    steps: list[Step]


def critic_page(report: Mapping[str, Any], rows: Sequence[ScoredRow], *, number: int, title: str) -> str:
    """The page of a report of `tools/evaluate_critic.py`.

    Args:
        report: its JSON values.
        rows: those that the figures are of.
        number: examples of each kind of disagreement.
        title: heading.
    """
    threshold = report["threshold"]
    picture = png(plot_calibration(report["calibration"], threshold))
    examples = {
        KINDS[is_right]: [example(one, threshold) for one in worst(rows, threshold, is_right=is_right)[:number]]
        for is_right in KINDS
    }
    template = Path(__file__).with_name("critic.html")
    return render(
        template, title=title, report=report, readings=NAMES, plot=data_uri(picture, "png"), examples=examples
    )


def worst(rows: Sequence[ScoredRow], threshold: float, *, is_right: bool) -> list[ScoredRow]:
    """Rows with a step of this label that the critic takes for the other, the surest mistake first."""

    def distance(one: ScoredRow) -> float:
        mistakes = [s for truth, s in one.judged if truth == is_right and (s > threshold) != is_right]
        return max((1 - score if is_right else score for score in mistakes), default=-1.0)

    ordered = sorted(rows, key=distance, reverse=True)
    return [one for one in ordered if distance(one) >= 0]


def example(one: ScoredRow, threshold: float) -> ShownAnswer:
    """A row with its pictures."""
    steps = [
        _step(text, label, score, threshold)
        for text, label, score in zip(one.row.steps, one.row.labels, one.scores, strict=True)
    ]
    pictures = [_picture(path) for path in one.row.images]
    where = f"{Path(one.row.where.file).name}:{one.row.where.line}"
    policy = f" by {one.row.policy}" if one.row.policy else ""
    return ShownAnswer(where, one.row.source + policy, one.row.question, pictures, steps)


def _step(text: str, label: int, score: float | None, threshold: float) -> Step:
    if score is None:
        return Step(text, LABELS[label], None, "", False)
    called_right = score > threshold
    disagrees = label != NEUTRAL and (label == RIGHT) != called_right
    return Step(text, LABELS[label], score, LABELS[1 if called_right else -1], disagrees)


def _picture(path: str) -> Picture:
    try:
        return Picture(path, uri=picture_uri(load_image(path), MAX_SIDE))
    except ImageError as error:
        return Picture(path, problem=str(error))
