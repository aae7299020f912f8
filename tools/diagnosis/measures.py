"""What is measured of a curve: its levels at the begin and the end, how far it comes back, what stands out alone.

All take the finite values of a curve, in order of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SIDE = 0.2  # share of a curve that is its begin, and that is its end
NEIGHBOURS = 5  # entries on each side that say what is usual around one
ALONE = 8.0  # times the usual distance from its neighbours: this value stands out


@dataclass(frozen=True)
class Level:
    """Mean of a part of a curve, and its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Ends:
    """A curve's level at its begin and at its end."""

    begin: Level
    end: Level

    @property
    def rise(self) -> float:
        """How much higher the end is."""
        return self.end.mean - self.begin.mean

    @property
    def error(self) -> float:
        """Standard error of the rise."""
        return math.hypot(self.begin.error, self.end.error)

    def __str__(self) -> str:
        return f"{self.begin.mean:.4g} at the begin, {self.end.mean:.4g} at the end"


def level(values: np.ndarray) -> Level:
    """Mean and standard error of values."""
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return Level(float(values.mean()), error)


def ends(values: np.ndarray) -> Ends:
    """Levels of the first and the last fifth, of two entries at least."""
    size = max(min(2, len(values)), round(SIDE * len(values)))
    return Ends(level(values[:size]), level(values[-size:]))


def rolling_mean(values: np.ndarray) -> np.ndarray:
    """Means over windows of a tenth of a curve, five entries at least."""
    window = min(len(values), max(5, len(values) // 10))
    return np.convolve(values, np.ones(window) / window, "valid")


def comeback(values: np.ndarray) -> tuple[float, float]:
    """The lowest rolling mean before the largest rise above it, and the highest behind it."""
    means = rolling_mean(values)
    lowest = np.minimum.accumulate(means)
    at = int(np.argmax(means - lowest))
    return float(lowest[at]), float(means[at])


def noise(values: np.ndarray) -> float:
    """Standard deviation of single entries around their course, from the differences of neighbours."""
    return float(np.median(np.abs(np.diff(values))) * 1.4826 / math.sqrt(2)) if len(values) > 1 else 0.0


def outliers(values: np.ndarray) -> list[tuple[int, float]]:
    """(index, usual value around it) of entries that stand out from their neighbours, the largest distance first.

    The first twentieth is left out: nothing is usual yet there.
    """
    usual = np.array([np.median(_around(values, index)) for index in range(len(values))])
    distance = np.abs(values - usual)
    low, high = np.quantile(values, (0.05, 0.95))
    scale = max(1.4826 * float(np.median(distance)), 0.02 * float(high - low), 0.01 * abs(float(np.median(values))))
    first = max(1, len(values) // 20)
    found = [index for index in range(first, len(values)) if distance[index] > ALONE * scale]
    return [(index, float(usual[index])) for index in sorted(found, key=lambda index: -distance[index])]


def _around(values: np.ndarray, index: int) -> np.ndarray:
    """The neighbours of an entry, without itself."""
    before, after = values[max(0, index - NEIGHBOURS) : index], values[index + 1 : index + 1 + NEIGHBOURS]
    return np.concatenate([before, after])
