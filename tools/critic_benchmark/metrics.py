"""How well scores tell right steps from wrong ones: macro F1 in its three readings, first errors, calibration.

The metric of VisualProcessBench is the macro F1 of right and wrong steps per source. Its overall figure ("micro
average") is read in three ways by those who publish it, up to 2.6 points apart, so all three are given: all steps
pooled, sources weighted by their steps, the plain mean of sources. Neutral steps are in none of them. All intervals are
of 95 %, by resampling rows: steps of one answer resemble each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from tools.critic_benchmark.rows import NEUTRAL, RIGHT, ProcessRow
from tools.evaluation.accuracy import percent, percents
from tools.evaluation.statistics import CONFIDENCE, RESAMPLES, Interval

BINS = 10  # of scores, for the calibration
BATCH = 500  # resamples held in memory at once
READINGS = ("pooled", "weighted", "mean_of_sources")


class ScoredRow(NamedTuple):
    """A row and a score in 0..1 of each of its steps, None where there is none."""

    row: ProcessRow
    scores: Sequence[float | None]

    @property
    def judged(self) -> list[tuple[bool, float]]:
        """(is right, score) of the steps that count: neither neutral nor without score."""
        pairs = zip(self.row.labels, self.scores, strict=True)
        return [(label == RIGHT, score) for label, score in pairs if label != NEUTRAL and score is not None]


def counts_of(judged: Sequence[tuple[bool, float]], threshold: float) -> np.ndarray:
    """(4,) steps: right called right, right called wrong, wrong called right, wrong called wrong.

    A step is called right where its score is above the threshold.
    """
    places = [2 * (not is_right) + (score <= threshold) for is_right, score in judged]
    return np.bincount(np.asarray(places, dtype=int), minlength=4)


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """(.., 2) F1 of right and of wrong steps, from (.., 4) counts of `counts_of`; 0 where there is nothing to find."""
    kept, missed, passed, caught = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    hits = np.stack([kept, caught], -1)
    divisor = 2 * hits + (missed + passed)[..., None]
    return np.divide(2 * hits, divisor, out=np.zeros_like(divisor), where=divisor > 0)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """(..) mean of the F1 of right and of wrong steps, from (.., 4) counts."""
    return f1_scores(counts).mean(-1)


def readings(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The overall figures of READINGS, each (..), from (.., S, 4) counts of S sources."""
    by_source, steps = macro_f1(counts), counts.sum(-1)
    total = np.maximum(steps.sum(-1), 1)
    return {
        "pooled": macro_f1(counts.sum(-2)),
        "weighted": (by_source * steps).sum(-1) / total,
        "mean_of_sources": by_source.mean(-1),
    }


def measure(rows: Sequence[ScoredRow], threshold: float) -> dict[str, Any]:
    """All figures of some rows as JSON values; shares in percent.

    Raises:
        ValueError: no step counts.
    """
    sources = sorted({one.row.source for one in rows})
    counts = np.zeros((len(rows), len(sources), 4))
    for number, one in enumerate(rows):
        counts[number, sources.index(one.row.source)] = counts_of(one.judged, threshold)
    if not counts.any():
        raise ValueError("no step counts: all are neutral or without score")
    total, drawn = counts.sum(0), resampled_sums(counts)
    overall, spread = readings(total), readings(drawn)
    by_source, spreads = macro_f1(total), macro_f1(drawn)
    return {
        "steps": step_counts(rows),
        "overall": {name: _figure(float(overall[name]), spread[name]) for name in READINGS} | _f1s(total.sum(0)),
        "sources": {
            name: {
                **_figure(by_source[i], spreads[:, i]),
                **_f1s(total[i]),
                "rows": sum(one.row.source == name for one in rows),
                "steps": int(total[i].sum()),
            }
            for i, name in enumerate(sources)
        },
        "chance": chance(total.sum(0)),
        "first_error": first_errors(rows, threshold),
        **ranking(rows),
    }


def _figure(value: float, spread: np.ndarray) -> dict[str, Any]:
    tail = (1 - CONFIDENCE) / 2
    return {"macro_f1": percent(value), "interval": percents(Interval(*np.quantile(spread, [tail, 1 - tail])))}


def _f1s(counts: np.ndarray) -> dict[str, float]:
    right, wrong = f1_scores(counts)
    return {"f1_right": percent(right), "f1_wrong": percent(wrong)}


def resampled_sums(values: np.ndarray) -> np.ndarray:
    """(RESAMPLES, ..) sums over rows that are drawn with replacement, from (rows, ..) values; always the same draws."""
    rng, rows = np.random.default_rng(0), len(values)
    flat, even = values.reshape(rows, -1), np.full(rows, 1 / rows)
    sizes = [min(BATCH, RESAMPLES - start) for start in range(0, RESAMPLES, BATCH)]
    sums = [rng.multinomial(rows, even, size=size) @ flat for size in sizes]
    return np.concatenate(sums).reshape(RESAMPLES, *values.shape[1:])


def step_counts(rows: Sequence[ScoredRow]) -> dict[str, int]:
    """Steps that count, by their label, and those that do not, by the reason."""
    pairs = [pair for one in rows for pair in zip(one.row.labels, one.scores, strict=True)]
    judged = [is_right for one in rows for is_right, _ in one.judged]
    return {
        "right": sum(judged),
        "wrong": len(judged) - sum(judged),
        "neutral": sum(label == NEUTRAL for label, _ in pairs),
        "without_score": sum(label != NEUTRAL and score is None for label, score in pairs),
    }


def chance(counts: np.ndarray) -> dict[str, float]:
    """Pooled macro F1 of who looks at nothing: calls every step right, or tosses a coin."""
    right, wrong = counts[:2].sum(), counts[2:].sum()
    guesses = {"always_right": [right, 0, wrong, 0], "coin": [right / 2, right / 2, wrong / 2, wrong / 2]}
    return {name: percent(float(macro_f1(np.array(guess)))) for name, guess in guesses.items()}


def first_errors(rows: Sequence[ScoredRow], threshold: float) -> dict[str, Any]:
    """How often the first wrong step is found, and how often answers without one are let pass.

    ProcessBench's figure (arXiv 2412.06559): the harmonic mean of both shares. A neutral step is no error.
    """
    found: dict[bool, list[bool]] = {True: [], False: []}
    for one in rows:
        steps = one.judged
        truth = next((i for i, (is_right, _) in enumerate(steps) if not is_right), None)
        called = next((i for i, (_, score) in enumerate(steps) if score <= threshold), None)
        if steps:
            found[truth is not None].append(called == truth)
    shares = [sum(hits) / len(hits) if hits else 0.0 for hits in found.values()]
    both = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0
    names = ("with_error", "without_error")
    return {
        "f1": percent(both),
        **{name: percent(share) for name, share in zip(names, shares, strict=True)},
        **{f"rows_{name}": len(hits) for name, hits in zip(names, found.values(), strict=True)},
    }


def ranking(rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """What no threshold changes: the area under the ROC curve of steps, and the calibration of the scores."""
    judged = [pair for one in rows for pair in one.judged]
    is_right, scores = np.array([pair[0] for pair in judged]), np.array([pair[1] for pair in judged])
    return {"auc": area_under_roc(is_right, scores), "calibration": calibration(is_right, scores)}


def area_under_roc(is_right: np.ndarray, scores: np.ndarray) -> float | None:
    """Percent of (right, wrong) pairs of steps of which the right one scores higher, ties half; None without pairs."""
    right, wrong = int(is_right.sum()), int((~is_right).sum())
    if not right or not wrong:
        return None
    ranks = scipy.stats.rankdata(scores)
    return percent((ranks[is_right].sum() - right * (right + 1) / 2) / (right * wrong))


def calibration(is_right: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """The expected calibration error, and bins of equal width with their steps, mean score and share of right ones."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins: list[Mapping[str, Any]] = []
    error = 0.0
    for number in range(BINS):
        inside = place == number
        steps = int(inside.sum())
        mean, share = (float(values[inside].mean()) if steps else None for values in (scores, is_right))
        if mean is not None and share is not None:
            error += steps / len(scores) * abs(mean - share)
        bins.append({"steps": steps, "mean_score": mean, "right": share})
    return {"expected_error": percent(error), "bins": bins}


def best_threshold(judged: Sequence[tuple[bool, float]]) -> float:
    """The threshold with the highest pooled macro F1 of these steps, the lowest of equal ones.

    Tried are 0 and every score: between two scores nothing changes.
    """
    is_right, scores = np.array([pair[0] for pair in judged]), np.array([pair[1] for pair in judged])
    order = np.argsort(scores)
    tried, last = np.unique(np.append(0.0, scores), return_index=False), np.cumsum(is_right[order])
    called_wrong = np.searchsorted(scores[order], tried, side="right")  # steps at or below each threshold
    right_lost = np.append(0, last)[called_wrong]
    right, wrong = last[-1], len(scores) - last[-1]
    caught = called_wrong - right_lost
    counts = np.stack([right - right_lost, right_lost, wrong - caught, caught], -1)
    return float(tried[macro_f1(counts).argmax()])
