"""What a run is judged by: its log, the settings that say what is expected of it, and the books on its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any

import numpy as np

from tools.diagnosis.verdicts import FEWEST, Judged, too_few

BETA = 0.1  # where no settings tell


@dataclass(frozen=True)
class Evidence:
    """A log (of any Trainer of transformers or trl), and what else is known of its run.

    Attributes:
        entries: of the log, in order.
        settings: content of settings.json; {} where it is not there.
        ledger: content of ledger.json; {} likewise.
    """

    entries: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    ledger: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def training(self) -> list[Mapping[str, Any]]:
        """Entries of training steps."""
        return [entry for entry in self.entries if "loss" in entry]

    def values(self, name: str) -> np.ndarray:
        """The finite values of a curve over training steps; those of evaluations for a name with `eval_`."""
        entries = self.entries if name.startswith("eval_") else self.training
        found = np.array([as_number(entry[name]) for entry in entries if name in entry], dtype=float)
        return found[np.isfinite(found)]

    def together(self, *names: str) -> list[np.ndarray]:
        """Curves over those training steps that have a finite value of each."""
        rows = [[as_number(entry.get(name)) for name in names] for entry in self.training]
        table = np.array(rows, dtype=float).reshape(-1, len(names))
        return list(table[np.isfinite(table).all(axis=1)].T)

    @property
    def flags(self) -> Mapping[str, Any]:
        """The flags of the training, by name."""
        return self.settings.get("training", {})

    @property
    def beta(self) -> float:
        """Of the rewards: a reward is beta times nats."""
        return float(self.flags.get("beta") or BETA)

    @property
    def is_preference(self) -> bool:
        """Whether the run learned from pairs."""
        return any("rewards/margins" in entry for entry in self.training)

    @cached_property
    def is_early(self) -> bool:
        """Whether it is too early to ask what was learned: in the first third of a run, or while its rate rises."""
        if any("train_runtime" in entry for entry in self.entries):
            return False
        planned = as_number(self.flags.get("max_steps"))
        if planned > 0:
            return self.last_step < planned / 3
        rates = self.values("learning_rate")
        return len(rates) > 1 and bool(rates[0] < rates[-1] == rates.max())

    @property
    def last_step(self) -> int:
        """The last step in the log."""
        return int(max(as_number(entry.get("step", 0)) for entry in self.entries))


def as_number(value: Any) -> float:
    """A value of a log as a number; NaN for what is none, such as null or a word."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def of_curve(name: str, least: int = FEWEST) -> Callable[[Callable[..., Judged]], Callable[[Evidence], Judged | None]]:
    """Make a rule of one that takes the values of a curve: None where the log has no such curve, too few are told."""

    def decorate(rule: Callable[..., Judged]) -> Callable[[Evidence], Judged | None]:
        @wraps(rule)
        def judge(run: Evidence) -> Judged | None:
            values = run.values(name)
            if len(values) < least:
                return too_few(len(values)) if len(values) else None
            return rule(run, values)

        return judge

    return decorate


def of_curves(
    names: Iterable[str],
) -> Callable[[Callable[..., Judged]], Callable[[Evidence], Judged | None]]:
    """As `of_curve`, of a rule that takes those of some curves that the log has, by name; the longest counts."""

    def decorate(rule: Callable[..., Judged]) -> Callable[[Evidence], Judged | None]:
        @wraps(rule)
        def judge(run: Evidence) -> Judged | None:
            known = {name: values for name in names if len(values := run.values(name))}
            longest = max(map(len, known.values()), default=0)
            if longest < FEWEST:
                return too_few(longest) if longest else None
            return rule(run, known)

        return judge

    return decorate
