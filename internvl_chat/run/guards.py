"""What keeps a run from going wrong unnoticed: `CurveWatch` reads the log as a person would and says what looks wrong.

    loss spike               the loss is above the median of the 50 entries before by more than 8 median deviations
    likelihood displacement  margins rise while the rewards of chosen answers fall below 0: both answers become less
                             likely, the rejected one faster (arXiv 2410.08847)
    reward collapse          after 200 entries the accuracy of the last 100 is still that of a coin, 0.45 to 0.55

Numbers that are not finite are found in the step itself, by `StepGuard` of `internvl_chat.run.metrics`.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SPIKE_WINDOW, SPIKE_DEVIATIONS = 50, 8.0
WINDOW = 100  # log entries that make a trend
QUIET = 100  # log entries before the same words come again


class CurveWatch(TrainerCallback):
    """Warns in words, on the first rank, when the log shows a known kind of trouble."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self.said: dict[str, int] = {}  # kind of trouble -> log entries when it was told last

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the log up to here, which a resumed run brings along."""
        entries = [entry for entry in state.log_history if "loss" in entry]
        if not state.is_world_process_zero or not entries or entries[-1]["step"] != state.global_step:
            return
        for kind, words in troubles(entries).items():
            if len(entries) - self.said.get(kind, -QUIET) >= QUIET:
                self.said[kind] = len(entries)
                logger.warning("step %d: %s: %s", state.global_step, kind, words)


def troubles(entries: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """What the log of training, one entry per logging step, shows at its end: kind of trouble -> what to do."""
    found = {
        "loss spike": loss_spike([entry["loss"] for entry in entries]),
        "likelihood displacement": likelihood_displacement(entries[-WINDOW:]),
        "reward collapse": reward_collapse(entries),
    }
    return {kind: words for kind, words in found.items() if words}


def loss_spike(losses: Sequence[float]) -> str | None:
    """Words on a last loss far above those before it."""
    before = losses[-SPIKE_WINDOW - 1 : -1]
    if len(before) < SPIKE_WINDOW // 2:
        return None
    median = statistics.median(before)
    deviation = statistics.median(abs(loss - median) for loss in before)
    if losses[-1] <= median + SPIKE_DEVIATIONS * max(deviation, 1e-3 * abs(median)):
        return None
    cure = "if it does not come back, lower --learning_rate, lengthen --warmup_ratio or look at the rows of this step"
    return f"loss {losses[-1]:.4g}, usually {median:.4g} (median deviation {deviation:.2g}); {cure}"


def likelihood_displacement(entries: Sequence[Mapping[str, float]]) -> str | None:
    """Words on margins that rise while chosen answers become less likely than under the reference."""
    if len(entries) < WINDOW or "rewards/margins" not in entries[-1] or "rewards/margins" not in entries[0]:
        return None
    halves = (entries[: WINDOW // 2], entries[WINDOW // 2 :])
    chosen, margins = (
        [statistics.fmean(entry.get(name, 0.0) for entry in half) for half in halves]
        for name in ("rewards/chosen", "rewards/margins")
    )
    if not (chosen[1] < min(chosen[0], 0.0) and margins[1] > margins[0]):
        return None
    cure = "raise the weight of the NLL (--rpo_alpha) or --beta, or lower --learning_rate"
    fall = f"rewards/chosen fell from {chosen[0]:.3g} to {chosen[1]:.3g}"
    return f"{fall} while rewards/margins rose from {margins[0]:.3g} to {margins[1]:.3g}; {cure}"


def reward_collapse(entries: Sequence[Mapping[str, float]]) -> str | None:
    """Words on a policy that still tells chosen from rejected no better than a coin."""
    if len(entries) < 2 * WINDOW or "rewards/accuracies" not in entries[-1]:
        return None
    accuracy = statistics.fmean(entry.get("rewards/accuracies", 1.0) for entry in entries[-WINDOW:])
    if abs(accuracy - 0.5) > 0.05:
        return None
    cure = "are chosen and rejected mixed up or the same in the data? else raise --learning_rate or lower --beta"
    return f"rewards/accuracies is {accuracy:.3f} over the last {WINDOW} log entries; {cure}"
