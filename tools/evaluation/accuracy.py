"""How many answers are right: of the most likely answer, of one sampled answer (pass@1), of the majority of n."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tools.evaluation.answering import Answered
from tools.evaluation.statistics import Interval, share_interval, wilson
from tools.reasoning_data_pipeline.answers.checker import Outcome
from tools.visual_reasoning.steps import has_right_steps

RIGHT_RESPONSE = "right_response"  # field of a row: a response whose steps are all right


def percent(share: float) -> float:
    """A share as percent with two digits."""
    return round(100 * float(share), 2)


def percents(interval: Interval) -> list[float]:
    """Bounds of a share as percent."""
    return [percent(interval.low), percent(interval.high)]


def summarize(answered: Sequence[Answered], by: str = "task") -> dict[str, dict[str, Any]]:
    """Accuracy of all questions and by the values of a row field, as JSON values.

    Args:
        answered: Q >= 1 questions with N answers each.
        by: field of the rows; `metadata.task` is the field `task` of the field `metadata`.

    Returns:
        Group name -> `percent` of right answers and its `interval`; counts of `questions`, `answers`, `correct` ones,
        `format_errors` and `undecided` ones; for several answers `majority` with the same; for questions whose rows
        have a `right_response`, percent of the answers that take its steps, `right_steps`.
    """
    groups: dict[str, list[Answered]] = defaultdict(list)
    for one in answered:
        groups["all"].append(one)
        value = field_of(one.question.prompt.extra, by)
        if value is not None:
            groups[str(value)].append(one)
    return {name: accuracy(group) for name, group in groups.items()}


def field_of(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field, None where it is absent; dots lead into fields of fields."""
    first, _, rest = name.partition(".")
    value = row.get(first)
    return field_of(value, rest) if rest and isinstance(value, Mapping) else value if not rest else None


def accuracy(answered: Sequence[Answered]) -> dict[str, Any]:
    """Counts and shares of some questions, as JSON values; see `summarize`."""
    shares = [one.share for one in answered]
    outcomes = [outcome for one in answered for outcome in one.outcomes]
    found = {
        "percent": percent(sum(shares) / len(shares)),
        "interval": percents(share_interval(shares)),
        "questions": len(answered),
        "answers": len(outcomes),
        "correct": outcomes.count(Outcome.CORRECT),
        "format_errors": outcomes.count(Outcome.FORMAT_ERROR),
        "undecided": outcomes.count(Outcome.UNDECIDED),
    }
    if len(outcomes) > len(answered):
        found["majority"] = majority(answered)
    if all(RIGHT_RESPONSE in one.question.prompt.extra for one in answered):
        found["right_steps"] = right_steps(answered)
    return found


def right_steps(answered: Sequence[Answered]) -> float:
    """Percent of the answers that take the steps of their row's right response."""
    pairs = [(response, one.question.prompt.extra[RIGHT_RESPONSE]) for one in answered for response in one.responses]
    return percent(sum(has_right_steps(response, str(solution)) for response, solution in pairs) / len(pairs))


def majority(answered: Sequence[Answered]) -> dict[str, Any]:
    """Accuracy of the majority's answers; only an answer that is surely right counts."""
    correct = sum(one.majority.outcome is Outcome.CORRECT for one in answered)
    return {
        "percent": percent(correct / len(answered)),
        "interval": percents(wilson(correct, len(answered))),
        "correct": correct,
        "undecided": sum(one.majority.outcome is Outcome.UNDECIDED for one in answered),
        "ties": sum(one.majority.is_tie for one in answered),
    }
