"""How sure a figure is: intervals of 95 % and paired tests, by scipy. Equal inputs give equal figures.

Answers to one question resemble each other, so a question, not an answer, is what is drawn: intervals of shares over
several answers resample questions (as arXiv 2411.00640, section 2.2, clusters them), and two checkpoints are compared
question by question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.stats when it is used first

CONFIDENCE = 0.95
RESAMPLES = 9_999
BATCH = 500  # resamples held in memory at once


class Interval(NamedTuple):
    """Bounds of a figure at 95 % confidence."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a proportion, in 0..1; all of it where nothing was tried."""
    if not trials:
        return Interval(0.0, 1.0)
    found = scipy.stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def share_interval(shares: Sequence[float]) -> Interval:
    """Interval of the mean of Q >= 1 shares in 0..1, one per question: Wilson's where each is 0 or 1."""
    if set(shares) <= {0.0, 1.0}:
        return wilson(int(sum(shares)), len(shares))
    return mean_interval(shares)


def mean_interval(values: Sequence[float]) -> Interval:
    """Bootstrap interval of the mean of Q >= 1 values, one per question; of equal values no width."""
    if len(set(values)) == 1:
        return Interval(values[0], values[0])
    return bootstrap([np.asarray(values, dtype=float)], np.mean)


def bootstrap(samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> Interval:
    """Percentile bootstrap interval of `statistic(*samples, axis)`, resampling the rows of all samples together."""
    found = scipy.stats.bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def mcnemar(only_before: int, only_after: int, alternative: str = "two-sided") -> float:
    """p-value of McNemar's exact test.

    Args:
        only_before: questions that only the first checkpoint got right.
        only_after: questions that only the second one got right.
        alternative: "two-sided", or "less": the second one got fewer right.
    """
    discordant = only_before + only_after
    return float(scipy.stats.binomtest(only_after, discordant, 0.5, alternative).pvalue) if discordant else 1.0


def sign_flip(differences: Sequence[float], alternative: str = "two-sided") -> float:
    """p-value of the paired permutation test of a mean difference; one difference per question.

    All sign patterns are tried where they are few, else 9,999 seeded ones. `alternative` as of `mcnemar`.
    """
    if not any(differences):
        return 1.0
    found = scipy.stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        np.mean,
        permutation_type="samples",
        alternative=alternative,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
