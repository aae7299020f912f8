"""The score of an answer, by the scores of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

HOW: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "min": min, "last": lambda scores: scores[-1]}
"""Name -> score of an answer; `mean` is VisualPRM's, `min` usual in reinforcement learning, `last` an outcome's."""


def answer_score(scores: Sequence[float], by: str = "mean") -> float:
    """One number in 0..1 for an answer.

    Args:
        scores: of its steps, in their order.
        by: a name of `HOW`.

    Raises:
        ValueError: there is no step, or no such name.
    """
    if by not in HOW:
        raise ValueError(f"an answer is not scored by {by!r}: take one of {', '.join(HOW)}")
    if not scores:
        raise ValueError("an answer without steps has no score: split it into one step at least")
    return float(HOW[by](scores))
