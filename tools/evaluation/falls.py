"""Whether held-out answers got worse since a first look: beyond chance, and though one looks several times.

The same questions are asked at every look, so that the test is paired and one-sided: exact (McNemar) where a question
has one answer, by permutation where it has several. Looks share questions and the first answers, hence are correlated
in a way that nobody knows, and each is a test of its own, no sum of the ones before: what alpha spending of clinical
trials (O'Brien and Fleming) assumes does not hold. So the level of a run, 5 %, is divided by the number of looks: by
the union bound no more than 5 % of the runs that do no harm are stopped, however looks hang together; as they hang
together closely, far fewer are. An early look counts as much as a late one, for harm that is seen early costs least.
What would be a fall were there but one look is said as a doubt, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.evaluation.statistics import Interval, mcnemar, mean_interval, sign_flip

RUN_LEVEL = 0.05  # of the runs that do no harm, stopped at any of their looks


@dataclass(frozen=True)
class Change:
    """What became of Q questions since the first look.

    Attributes:
        before: mean of the first look.
        now: mean of this look.
        interval: of now minus before at 95 %, resampling questions.
        better: questions.
        worse: questions.
        p: of the one-sided test that the mean fell.
    """

    before: float
    now: float
    interval: Interval
    better: int
    worse: int
    p: float

    @classmethod
    def of(cls, before: Sequence[float], now: Sequence[float]) -> Change:
        """Compare Q >= 1 questions with themselves."""
        differences = np.asarray(now, dtype=float) - np.asarray(before, dtype=float)
        better, worse = int((differences > 0).sum()), int((differences < 0).sum())
        is_binary = set(before) | set(now) <= {0.0, 1.0}
        p = mcnemar(worse, better, "less") if is_binary else sign_flip(differences.tolist(), "less")
        interval = mean_interval(differences.tolist())
        return cls(float(np.mean(before)), float(np.mean(now)), interval, better, worse, p)

    @property
    def difference(self) -> float:
        """Now minus before."""
        return self.now - self.before

    def fall(self, looks: int) -> str:
        """What shows that answers got worse, at one of so many looks; "" where it may be chance."""
        return f"held-out answers got worse: {self._words(looks)}" if self.p <= RUN_LEVEL / looks else ""

    def doubt(self, looks: int) -> str:
        """What would be a fall were this the only look, and may be chance at one of so many; "" elsewhere."""
        if not RUN_LEVEL / looks < self.p <= RUN_LEVEL:
            return ""
        return f"held-out answers may have got worse, the next look tells: {self._words(looks)}"

    def _words(self, looks: int) -> str:
        low, high = (100 * bound for bound in self.interval)
        return (
            f"{100 * self.now:.1f} % right, {100 * self.before:.1f} % at the first look "
            f"({100 * self.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}; {self.worse} questions "
            f"worse, {self.better} better; one-sided p = {self.p:.2g}, the limit of each of {looks} looks "
            f"{RUN_LEVEL / looks:.2g})"
        )
