"""Means over seeds and differences between arms seed by seed, with intervals of 95 % by Student's t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
MEASURES = (
    "cot",
    "cot_sampled",
    "direct",
    "cot_minus_direct",
    "right_steps",
    "probe",
    "hallucinated",
    "words",
    "kl",
    "margins",
    "accuracies",
    "nll",
    "pairs_per_second",
)

Runs = Mapping[str, Mapping[str, Mapping[str, Any]]]  # seed -> arm -> measure -> value


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean of at least one value and its interval, None where there is but one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": round(mean, 3), "interval": None}
    half = float(stats.sem(values)) * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return {"mean": round(mean, 3), "interval": [round(mean - half, 3), round(mean + half, 3)]}


def differences(runs: Runs, arm: str, other: str, measure: str = "cot") -> list[float]:
    """One arm's measure minus another's, per seed that has both."""
    both = [(seed[arm], seed[other]) for seed in runs.values() if arm in seed and other in seed]
    return [one[measure] - two[measure] for one, two in both]


def summarize(runs: Runs) -> dict[str, Any]:
    """Per arm: the number of its seeds and the means of its measures over them, base first."""
    arms = dict.fromkeys(arm for seed in runs.values() for arm in seed)
    return {arm: _summary([seed[arm] for seed in runs.values() if arm in seed]) for arm in arms}


def _summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {name: [one[name] for one in seeds if one.get(name) is not None] for name in MEASURES}
    return {"seeds": len(seeds), **{name: mean_interval(found) for name, found in values.items() if found}}
