"""Answers that a report shows: as many that became right as ones that no longer are, and how many there were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tools.pages.page import Segments, mark_differences
from tools.pages.pictures import Picture, embed

MAX_SIDE = 320  # pixels of an embedded picture
KINDS = {1: "became right", -1: "no longer right", 0: "as before"}


@dataclass(frozen=True)
class AnswerView:
    """What the page shows of one question; segments are (text, whether the other answer lacks it)."""

    way: str
    question: str
    gold: str
    kind: str
    pictures: list[Picture]
    before: Segments
    outcome_before: str
    after: Segments
    outcome: str


@dataclass(frozen=True)
class ShownAnswers:
    """The answers of a page, and what they were chosen from, in a sentence."""

    told: str
    views: list[AnswerView]


def choose_answers(answers: Mapping[str, Mapping[str, Any]], number: int) -> ShownAnswers:
    """Up to `number` questions: as many gains as losses in turn, then ones that did not change.

    Where one of both is empty, half of the places go to the other.
    """
    rows = [row for found in answers.values() for row in found.values()]
    kinds = {change: [row for row in rows if change_of(row) == change] for change in KINDS}
    better, worse = kinds[1], kinds[-1]
    least = min(len(better), len(worse)) or max(len(better), len(worse))
    each = min(least, max(1, number // 2))
    changed = [row for pair in zip(better[:each], worse[:each], strict=False) for row in pair]
    changed = changed or [*better[:each], *worse[:each]]
    same = kinds[0][: max(0, number - len(changed))]
    counts = [(change, sum(row is one for row in changed for one in kinds[change])) for change in (1, -1)]
    told = [f"{shown} of {len(kinds[change])} that {_words(change)}" for change, shown in counts]
    shown_same = f"{len(same)} of {len(kinds[0])} that are as before"
    return ShownAnswers(f"Shown are {told[0]}, {told[1]}, and {shown_same}.", [view(row) for row in [*changed, *same]])


def _words(change: int) -> str:
    return KINDS[change] if change > 0 else f"are {KINDS[change]}"


def change_of(row: Mapping[str, Any]) -> int:
    """1 where the first answer became right, -1 where it no longer is, else 0."""
    before = row.get("before", row)["outcomes"][0] == "correct"
    return int(row["outcomes"][0] == "correct") - int(before)


def view(row: Mapping[str, Any]) -> AnswerView:
    """Lay out the first answer to one question, and the one before."""
    before = row.get("before")
    one, other = mark_differences(before["responses"][0], row["responses"][0]) if before else ([], [])
    return AnswerView(
        way=row["way"],
        question=row["question"],
        gold=gold_text(row["answer"]),
        kind=KINDS[change_of(row)] if before else "",
        pictures=[embed("/", path.lstrip("/"), MAX_SIDE) for path in row["images"]],
        before=one,
        outcome_before=before["outcomes"][0] if before else "",
        after=other or [(row["responses"][0], False)],
        outcome=row["outcomes"][0],
    )


def gold_text(answer: Any) -> str:
    """The right answer, or several, as text."""
    values: Iterable[Any] = answer if isinstance(answer, list) else [answer]
    return " or ".join(map(str, values))
