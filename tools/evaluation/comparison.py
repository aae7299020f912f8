"""Two checkpoints on the same questions: the difference, its interval, and a paired test.

One answer per question makes a right or wrong: McNemar's exact test. Several make a share: a permutation test of the
differences. The majority of several is right or wrong again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tools.evaluation.accuracy import percent, percents
from tools.evaluation.statistics import mcnemar, mean_interval, sign_flip
from tools.reasoning_data_pipeline.answers.checker import Outcome

LEVEL = 0.05  # of the tests
Rows = Mapping[str, Mapping[str, Any]]


def compare(before: Mapping[str, Rows], after: Mapping[str, Rows]) -> dict[str, Any]:
    """The comparison of every way of asking that both evaluations have, as JSON values.

    Args:
        before, after: way -> key -> row, of `answering.read_answers`.

    Raises:
        ValueError: the two did not ask the same questions.
    """
    return {way: compare_way(way, before[way], after[way]) for way in after if way in before}


def compare_way(way: str, before: Rows, after: Rows) -> dict[str, Any]:
    """Difference of the shares of right answers in points, its interval, p-value and counts; of the majority too.

    Raises:
        ValueError: the two did not ask the same questions.
    """
    _check_questions(way, before, after)
    pairs = [(before[key], after[key]) for key in sorted(after)]
    found = paired([(share(one), share(other)) for one, other in pairs])
    if all(len(row["outcomes"]) == 1 for pair in pairs for row in pair):
        return found
    votes = [(_vote(one), _vote(other)) for one, other in pairs]
    return {**found, "majority": paired(votes)}


def _check_questions(way: str, before: Rows, after: Rows) -> None:
    """Raise ValueError where the two did not ask the same questions."""
    if before.keys() != after.keys():
        lacking, more = len(after.keys() - before.keys()), len(before.keys() - after.keys())
        raise ValueError(
            f"{way}: a paired test needs the same questions, but {lacking} of now were not asked before and {more} of "
            "before not now: evaluate both on the same files in the same words"
        )


def share(row: Mapping[str, Any]) -> float:
    """Share of right answers of a row, 0 to 1."""
    return row["outcomes"].count(Outcome.CORRECT.value) / len(row["outcomes"])


def _vote(row: Mapping[str, Any]) -> float:
    return float(row["majority"]["outcome"] == Outcome.CORRECT.value)


def paired(shares: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The comparison of Q >= 1 questions, (share before, share after) each."""
    differences = np.array([after - before for before, after in shares])
    worse, better = int((differences < 0).sum()), int((differences > 0).sum())
    is_binary = all(value in (0.0, 1.0) for pair in shares for value in pair)
    return {
        "questions": len(shares),
        "before": percent(sum(before for before, _ in shares) / len(shares)),
        "after": percent(sum(after for _, after in shares) / len(shares)),
        "difference": percent(float(differences.mean())),
        "interval": percents(mean_interval(differences.tolist())),
        "better": better,
        "worse": worse,
        "test": "exact McNemar" if is_binary else "paired permutation",
        "p": float(f"{mcnemar(worse, better) if is_binary else sign_flip(differences.tolist()):.4g}"),
    }


def verdict(name: str, found: Mapping[str, Any]) -> str:
    """The comparison of one way in a sentence."""
    low, high = found["interval"]
    figures = (
        f"{found['difference']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; {found['better']} of "
        f"{found['questions']} questions better, {found['worse']} worse; {found['test']}, p = {found['p']:.2g}"
    )
    if found["p"] >= LEVEL:
        return f"{name}: no difference is shown ({figures})"
    return f"{name}: {'better' if found['difference'] > 0 else 'worse'} ({figures})"
