"""Rules on single entries and on the course of a curve: numbers that are none, leaps, comebacks, what breaks off."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tools.diagnosis.evidence import Evidence, as_number, of_curve, of_curves
from tools.diagnosis.measures import comeback, ends, noise, outliers, rolling_mean
from tools.diagnosis.verdicts import FEWEST, Judged, judged

CORE = ("loss", "grad_norm", "learning_rate", "nll_loss", "rewards/chosen", "rewards/rejected", "rewards/margins")
LOSSES = {"loss": 1.5, "nll_loss": 10.0, "losses/sigmoid": 10.0, "losses/bco_pair": 10.0}  # times what is usual
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "delta", "kl/chosen")
LENGTHS = ("lengths/chosen", "lengths/rejected", "completions/mean_length", "completion_length")
UNNUMBERED = ("step", "epoch")
GRADIENT_LEAP = {"grad_norm": 10.0}
LEAST_LEAP = 0.3  # of the level that a curve begins at: near 0 any value is many times its neighbours
LENGTH_RATIO = 1.5
GRADIENT_GROWTH, GRADIENT_DEATH = 5.0, 1e-3
COMEBACK = 0.3
FEW = 0.05  # share of the entries that may be odd
SURE = 4.0  # standard errors


def all_finite(run: Evidence) -> Judged | None:
    """No figure of the log is NaN, infinite or no number at all; a float16 run may lose gradients of single steps."""
    allowed = {"grad_norm"} if run.flags.get("fp16") else set()
    wrong = [
        f"{name} is {value} at step {entry.get('step', '?')}"
        for entry in run.entries
        for name, value in entry.items()
        if name not in allowed and _is_no_number(value)
    ]
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return judged(f"{wrong[0]}{more}" if wrong else f"{len(run.entries)} entries", bool(wrong))


def _is_no_number(value: object) -> bool:
    if isinstance(value, str):  # notes are no figures, "NaN" is one
        return value.strip().lower().lstrip("+-") in {"nan", "inf", "infinity", "none", "null"}
    return value is None or (isinstance(value, int | float) and not math.isfinite(value))


def unbroken(run: Evidence) -> Judged | None:
    """Curves of CORE that the log has are in all its entries of training, from where they begin."""
    gaps = []
    for name in CORE:
        has = [name in entry for entry in run.training]
        first = has.index(True) if any(has) else len(has)
        missing = has[first:].count(False)
        if missing:
            at = run.training[has.index(False, first)].get("step", "?")
            gaps.append(f"{name} is missing from step {at} on in {missing} of {len(has)} entries")
    absent = _promised(run)
    told = [*gaps, *(f"{name} is in no entry" for name in absent)]
    return judged("; ".join(told) or f"{len(run.training)} entries", bool(told))


def _promised(run: Evidence) -> list[str]:
    """Curves that the flags of the training promise and no entry has."""
    losses = [name.strip() for name in str(run.flags.get("loss_type") or "sft").strip("[]").replace("'", "").split(",")]
    if not run.training or losses in (["sft"], ["prm"]):
        return []
    return [name for name in ("rewards/margins", "rewards/chosen") if not any(name in entry for entry in run.training)]


def consistent(run: Evidence) -> Judged | None:
    """The margin of an entry is the difference of its rewards."""
    margin, chosen, rejected = run.together("rewards/margins", "rewards/chosen", "rewards/rejected")
    if not len(margin):
        return None
    off = np.abs(margin - (chosen - rejected))
    wrong = np.flatnonzero(off > 0.05 * (np.abs(chosen) + np.abs(rejected)) + 1e-3)
    if not len(wrong):
        return judged(f"{len(margin)} entries", is_fault=False)
    at = int(wrong[0])
    first = f"margin {margin[at]:.4g}, rewards {chosen[at]:.4g} and {rejected[at]:.4g}"
    return judged(f"{len(wrong)} of {len(margin)} entries do not, the first: {first}", is_fault=True)


@of_curves(LOSSES)
def loss_leaps(run: Evidence, known: Mapping[str, np.ndarray]) -> Judged:
    """No entry of a loss stands far above its neighbours; parts of a loss hang on single rows and vary more."""
    found = _first_leap(run, known, LOSSES)
    return judged(found or _none_of(known), found is not None)


def _first_leap(run: Evidence, known: Mapping[str, np.ndarray], factors: Mapping[str, float]) -> str | None:
    """An entry of the curves that is so many times what is usual around it, and far out of the noise; in words."""
    for name, values in known.items():
        found = _leap(values, factors[name]) if len(values) >= FEWEST else None
        if found is not None:
            index, usual = found
            return f"{name} is {values[index]:.4g} {_at(run, name, index)}, {usual:.4g} around it"
    return None


def _none_of(known: Mapping[str, np.ndarray]) -> str:
    return f"{max(map(len, known.values()))} entries, none stands out"


def _leap(values: np.ndarray, factor: float) -> tuple[int, float] | None:
    """The entry that leaps furthest, and what is usual around it."""
    least = LEAST_LEAP * max(abs(float(values[0])), abs(ends(values).begin.mean))
    for index, usual in outliers(values):
        if values[index] - usual > max(least, (factor - 1) * abs(usual)):
            return index, usual
    return None


def _at(run: Evidence, name: str, index: int) -> str:
    """Which step the finite value of a curve is of."""
    entries = [entry for entry in run.training if math.isfinite(as_number(entry.get(name)))]
    return f"at step {entries[index].get('step', '?')}"


@of_curve("loss")
def loss_comes_back(run: Evidence, values: np.ndarray) -> Judged:
    """The rolling mean of the loss does not rise far above one before it."""
    low, high = comeback(values)
    window = len(values) - len(rolling_mean(values)) + 1
    error = noise(values) * math.sqrt(2 / window)
    is_fault = high - low > COMEBACK * abs(low) and high - low > SURE * error
    return judged(f"rolling mean rises from {low:.4g} to {high:.4g}", is_fault)


@of_curve("grad_norm")
def gradient_explodes(run: Evidence, values: np.ndarray) -> Judged:
    """The norm of the gradient keeps its size."""
    if found := _first_leap(run, {"grad_norm": values}, GRADIENT_LEAP):
        return judged(found, is_fault=True)
    sides = ends(values)
    grows = sides.end.mean > GRADIENT_GROWTH * sides.begin.mean and sides.rise > SURE / 2 * sides.error
    return judged(str(sides), grows and sides.rise > 0)


@of_curve("grad_norm", least=3)
def gradient_vanishes(run: Evidence, values: np.ndarray) -> Judged:
    """There is a gradient in nearly all entries, and at the end."""
    zeros = int((values == 0).sum())
    begin, end = (float(np.median(part)) for part in (values[: len(values) // 3], values[-max(1, len(values) // 5) :]))
    is_dead = zeros > FEW * len(values) or end < GRADIENT_DEATH * begin
    return judged(
        f"0 in {zeros} of {len(values)} entries; median {begin:.4g} at the begin, {end:.4g} at the end", is_dead
    )


@of_curves(REWARDS)
def rewards_leap(run: Evidence, known: Mapping[str, np.ndarray]) -> Judged:
    """No entry of a reward is further from its neighbours than nearly all of the run is wide."""
    for name, values in known.items():
        low, high = np.quantile(values, (0.05, 0.95))
        for index, usual in outliers(values) if len(values) >= FEWEST else []:
            if abs(values[index] - usual) > high - low:
                return judged(f"{name} is {values[index]:.4g} {_at(run, name, index)}, {usual:.4g} around it", True)
    return judged(_none_of(known), is_fault=False)


@of_curves(LENGTHS)
def lengths_stay(run: Evidence, known: Mapping[str, np.ndarray]) -> Judged:
    """Lengths of answers are the same at the begin and at the end."""
    told, is_fault = [], False
    for name, values in known.items():
        sides = ends(values)
        ratio = sides.end.mean / sides.begin.mean if sides.begin.mean else math.inf
        is_fault |= (ratio > LENGTH_RATIO or ratio < 1 / LENGTH_RATIO) and abs(sides.rise) > SURE * sides.error
        told.append(f"{name} {sides}")
    return judged("; ".join(told), is_fault)
