"""How likely answers of a first look have become: the right ones against the wrong ones.

Right answers alone tell little: a policy that learns leaves the answers that it was drawn from, right ones too (in the
quickstart a right one loses 1.5 nats while accuracy rises by 10 points, a wrong one 5). What matters is who loses more.
To first order accuracy moves by the covariance of being right with the change of the log-prob (the policy gradient), so
a gap between right and wrong answers that closes points to a fall, before many answers have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tools.evaluation.statistics import Interval, bootstrap


@dataclass(frozen=True)
class FirstAnswer:
    """An answer of the first look: its token ids, whether it was right, and its log-prob then in nats."""

    tokens: list[int]
    is_right: bool
    logp: float


@dataclass(frozen=True)
class Followed:
    """Mean log-probs in nats of right and of wrong answers, and what became of them since the first look.

    Attributes:
        right: now.
        wrong: now.
        right_change: now minus then.
        wrong_change: likewise.
        gap_interval: of right_change minus wrong_change at 95 %, resampling questions.
    """

    right: float
    wrong: float
    right_change: float
    wrong_change: float
    gap_interval: Interval

    @classmethod
    def of(cls, first: Sequence[Sequence[FirstAnswer]], logps: Sequence[Sequence[float]]) -> Followed | None:
        """Compare the answers to Q questions with themselves; None where none is right, or none is wrong."""
        sums = np.array([_sums(*both) for both in zip(first, logps, strict=True)])  # (Q, 6)
        rights, right_now, right_then, wrongs, wrong_now, wrong_then = sums.sum(0)
        if not rights or not wrongs:
            return None
        columns = [sums[:, 0], sums[:, 1] - sums[:, 2], sums[:, 3], sums[:, 4] - sums[:, 5]]
        changes = ((right_now - right_then) / rights, (wrong_now - wrong_then) / wrongs)
        return cls(right_now / rights, wrong_now / wrongs, *changes, bootstrap(columns, _gap))

    @property
    def gap_change(self) -> float:
        """How much more likely right answers became than wrong ones."""
        return self.right_change - self.wrong_change

    def figures(self) -> dict[str, float]:
        """For the log, by name."""
        figures = {
            "right": self.right,
            "right_change": self.right_change,
            "wrong": self.wrong,
            "wrong_change": self.wrong_change,
            "gap_change": self.gap_change,
            "gap_change_low": self.gap_interval.low,
            "gap_change_high": self.gap_interval.high,
        }
        return {f"eval_logps/{name}": float(value) for name, value in figures.items()}

    def warning(self) -> str:
        """Words on right answers that lose more than wrong ones, beyond chance; "" where they do not."""
        if not self.gap_interval.high < 0:
            return ""
        low, high = self.gap_interval
        return (
            f"right held-out answers lose likelihood against wrong ones: {self.right_change:+.2f} and "
            f"{self.wrong_change:+.2f} nats each since the first look, a gap of {self.gap_change:+.2f} (95 % interval "
            f"{low:+.2f} to {high:+.2f}); does eval_accuracy follow? are chosen and rejected mixed up?"
        )


def _sums(first: Sequence[FirstAnswer], logps: Sequence[float]) -> list[float]:
    """Of the right answers to a question their number, their log-probs now and then; the same of the wrong ones."""
    found: list[float] = []
    for is_right in (True, False):
        kept = [(1.0, now, one.logp) for one, now in zip(first, logps, strict=True) if one.is_right is is_right]
        found += np.sum(kept, 0).tolist() if kept else [0.0] * 3
    return found


def _gap(
    rights: np.ndarray, right_changes: np.ndarray, wrongs: np.ndarray, wrong_changes: np.ndarray, axis: int
) -> np.ndarray:
    """Mean change of right answers minus that of wrong ones; a resample without one of both has none of that kind."""
    right, wrong = (np.maximum(1.0, part.sum(axis)) for part in (rights, wrongs))
    return right_changes.sum(axis) / right - wrong_changes.sum(axis) / wrong
