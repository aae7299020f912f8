"""Rules on what is learned: rates, losses, rewards, the distance from the reference, and rows that were held out."""

from __future__ import annotations

import math

import numpy as np

from tools.diagnosis.evidence import BETA, Evidence, of_curve
from tools.diagnosis.measures import ends, level, rolling_mean
from tools.diagnosis.verdicts import FEWEST, Judged, Sign, judged, too_few

LEAST_MARGIN = 0.01 / BETA  # nats, at the end of a run that learned something
LEAST_ACCURACY = 0.52
CHOSEN_FALL = 0.5 / BETA  # nats that a chosen answer may lose whatever its margin
KEPT_MARGIN, LOST_ACCURACY = 0.5, 0.1
NLL_RISE, EVAL_RISE = 0.15, 0.1
ACCURACY_GAP = 0.3  # of training over held-out rows
TOO_UNLIKELY, TOO_LIKELY = -0.5, 2.0  # nats per token of chosen answers, from the reference
WIDEST_MARGIN = 1000.0  # nats
PREFERRED_LENGTH = 0.1  # of an answer
KNOWN = 0.02  # a level of the loss is known when its standard error is below this share of it
SURE = 2.0  # standard errors
UNMOVED = 1e-4  # width of a loss that does not move, as a share of it


@of_curve("learning_rate", least=3)
def rate_is_on(run: Evidence, rates: np.ndarray) -> Judged:
    """The learning rate is above 0, but for the first entry of a warm-up and the last of a schedule."""
    off = int((rates[1:-1] <= 0).sum())
    value = f"highest {rates.max():.3g}; 0 in {off} of {len(rates) - 2} entries between first and last"
    return judged(value, off > 0.05 * (len(rates) - 2))


@of_curve("learning_rate", least=3)
def rate_follows(run: Evidence, rates: np.ndarray) -> Judged:
    """The learning rate reaches what the flag says, and does not leap; a flag changed on the way tells nothing."""
    inner, before, after = rates[1:-1], rates[:-2], rates[2:]
    leaps = inner > 1.5 * np.maximum(before, after)
    highest, flag = float(rates.max()), float(run.flags.get("learning_rate") or 0)
    value = f"highest {highest:.3g}" + (f", the flag is {flag:.3g}" if flag else "")
    if len(rates) >= FEWEST and leaps.any():
        at = int(np.argmax(leaps))
        return judged(f"{inner[at]:.3g} between {before[at]:.3g} and {after[at]:.3g}", is_fault=True)
    changed = any("--learning_rate" in start.get("changed", {}) for start in run.settings.get("starts", []))
    if not flag or changed:
        return judged(value, is_fault=False)
    return judged(value, highest > 1.1 * flag or (highest < 0.5 * flag and not run.is_early))


@of_curve("loss", least=3)
def loss_falls(run: Evidence, values: np.ndarray) -> Judged:
    """The loss moves, and is lower at the end; asked only where noise lets the levels be known."""
    if (np.abs(values) < 1e-9).sum() > max(1, 0.05 * len(values)):
        return judged(f"exactly 0 in {int((np.abs(values) < 1e-9).sum())} of {len(values)} entries", is_fault=True)
    if len(values) < FEWEST:
        return too_few(len(values))
    if np.ptp(values) < UNMOVED * abs(float(values.mean())):
        return judged(f"{values[0]:.4g} in all {len(values)} entries", is_fault=True)
    sides = ends(values)
    if run.is_early:
        return Judged(f"{sides}; too early to judge", Sign.UNKNOWN)
    is_known = max(sides.begin.error, sides.end.error) < KNOWN * abs(sides.begin.mean)
    return judged(str(sides), is_known and sides.rise > -SURE * sides.error)


@of_curve("rewards/margins")
def margin_rises(run: Evidence, values: np.ndarray) -> Judged:
    """The reward margin is higher at the end, and above next to nothing."""
    sides = ends(values)
    value = f"margin {sides}"
    if run.is_early:
        return Judged(f"{value}; too early to judge", Sign.UNKNOWN)
    is_new = abs(values[0]) < 0.5 * abs(sides.end.mean)  # a log that begins in the middle of a run need not rise
    is_flat = is_new and sides.rise < SURE * sides.error
    return judged(value, sides.end.mean < LEAST_MARGIN * run.beta or is_flat)


@of_curve("rewards/accuracies")
def beats_chance(run: Evidence, values: np.ndarray) -> Judged:
    """The chosen answer has the higher reward in more than half of the pairs."""
    sides = ends(values)
    if run.is_early:
        return Judged(f"accuracy {sides}; too early to judge", Sign.UNKNOWN)
    return judged(f"accuracy {sides}", sides.end.mean < LEAST_ACCURACY)


def learned_stays(run: Evidence) -> Judged | None:
    """Margin and accuracy at the end are near the highest level that they had."""
    margins, accuracies = run.values("rewards/margins"), run.values("rewards/accuracies")
    longest = max(len(margins), len(accuracies))
    if longest < FEWEST:
        return too_few(longest) if longest else None
    if run.is_early:
        return Judged(f"{longest} entries; too early to judge", Sign.UNKNOWN)
    told, is_fault = [], False
    for name, values in (("margin", margins), ("accuracy", accuracies)):
        if len(values) < FEWEST:
            continue
        means = rolling_mean(values)
        highest, last = float(means.max()), float(means[-1])
        error = float(np.diff(values).std()) / math.sqrt(len(values) - len(means) + 1)
        lost = (1 - KEPT_MARGIN) * highest if name == "margin" else LOST_ACCURACY
        was_something = highest > 10 * LEAST_MARGIN * run.beta if name == "margin" else highest > LEAST_ACCURACY
        is_fault |= was_something and highest - last > max(lost, SURE * error)
        told.append(f"{name} highest {highest:.4g}, last {last:.4g}")
    return judged("; ".join(told), is_fault)


@of_curve("rewards/chosen")
def chosen_stays(run: Evidence, values: np.ndarray) -> Judged:
    """Chosen answers do not become much less likely than the reference finds them."""
    margins = run.values("rewards/margins")
    sides = ends(values)
    margin = ends(margins).end.mean if len(margins) else 0.0
    is_low = sides.end.mean < -CHOSEN_FALL * run.beta
    return judged(f"{sides}; margin {margin:.4g}", is_low and -sides.end.mean > 0.5 * margin)


@of_curve("nll_loss")
def nll_stays(run: Evidence, values: np.ndarray) -> Judged:
    """The NLL of chosen answers does not end above its begin."""
    sides = ends(values)
    if run.is_early:  # it rises a little while the rate does
        return Judged(f"{sides}; too early to judge", Sign.UNKNOWN)
    return judged(str(sides), sides.rise > max(NLL_RISE * abs(sides.begin.mean), SURE * sides.error))


def near_reference(run: Evidence) -> Judged | None:
    """Chosen answers are about as likely per token as the reference finds them, and the margin is no abyss.

    Without `kl/chosen` in the log the rewards tell, over beta and the length of the answers.
    """
    rewards, margins = run.values("rewards/chosen"), run.values("rewards/margins")
    drift, lengths = run.values("kl/chosen"), run.values("lengths/chosen")
    if not len(drift) and len(rewards) and len(lengths):
        drift = np.array([rewards[-max(1, len(rewards) // 5) :].mean() / run.beta / lengths.mean()])
    told, is_fault = [], False
    if len(drift):
        last = level(drift[-max(1, len(drift) // 10) :]).mean
        told.append(f"chosen {last:+.3g} nats per token")
        is_fault |= last < TOO_UNLIKELY or last > TOO_LIKELY + _nll_fall(run)
    if len(margins):
        wide = level(margins[-max(1, len(margins) // 10) :]).mean / run.beta
        told.append(f"margin {wide:.4g} nats")
        is_fault |= wide > WIDEST_MARGIN
    return judged("; ".join(told), is_fault) if told else None


def _nll_fall(run: Evidence) -> float:
    """Nats per token by which chosen answers became likelier: what was learned takes a policy from its reference."""
    values = run.values("nll_loss")
    return max(0.0, float(values[0] - values[-max(1, len(values) // 10) :].mean())) if len(values) else 0.0


def prefers_length(run: Evidence) -> Judged | None:
    """The answers with the higher reward are not longer than the chosen ones are in the data."""
    preferred, margin, lengths = run.together("lengths/preferred", "lengths/margin", "lengths/chosen")
    if not len(preferred):
        return None
    if len(preferred) < FEWEST:
        return too_few(len(preferred))
    excess = ends(preferred - margin).end
    share = excess.mean / float(lengths.mean()) if lengths.mean() else math.inf
    value = f"{excess.mean:+.3g} tokens at the end, of {lengths.mean():.3g}"
    return judged(value, share > PREFERRED_LENGTH and excess.mean > 3 * excess.error)


def held_out_follows(run: Evidence) -> Judged | None:
    """The held-out loss does not leave its lowest while that of training falls, nor accuracy that of training."""
    losses, accuracies = run.values("eval_loss"), run.values("eval_rewards/accuracies")
    if len(losses) + len(accuracies) == 0:
        return None
    told, is_fault = [], False
    if len(losses):
        lowest, last = float(losses.min()), float(losses[-1])
        told.append(f"held-out loss lowest {lowest:.4g}, last {last:.4g}")
        is_fault |= len(losses) > 1 and last - lowest > EVAL_RISE * abs(lowest)
    trained = run.values("rewards/accuracies")
    if len(accuracies) and len(trained) >= FEWEST:
        now = ends(trained).end.mean
        told.append(f"accuracy {accuracies[-1]:.3g}, of training {now:.3g}")
        is_fault |= now - accuracies[-1] > ACCURACY_GAP
    return judged("; ".join(told), is_fault) if told else None
