"""What keeps a run from going wrong unnoticed: steps whose numbers are not finite, and curves that look wrong.

`StepGuard` looks at the losses of a step and at its gradient once, on all ranks together. `CurveWatch` reads the log as
a person would and says in words what is likely wrong:

    loss spike               the loss is above the median of the 50 entries before by more than 8 median deviations
    likelihood displacement  margins rise while the rewards of chosen answers fall below 0: both answers become less
                             likely, the rejected one faster (arXiv 2410.08847)
    reward collapse          after 200 entries the accuracy of the last 100 is still that of a coin, 0.45 to 0.55
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from internvl_chat.losses.mixture import PreferenceLoss
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

ROWS_NAMED = 20  # in an error that cannot tell which row it was
SPIKE_WINDOW, SPIKE_DEVIATIONS = 50, 8.0
WINDOW = 100  # log entries that make a trend
QUIET = 100  # log entries before the same words come again


@dataclass(frozen=True)
class MicroBatch:
    """Losses of a micro-batch, still on the device: (1 + parts,) in the order of `names`, the total first."""

    names: tuple[str, ...]
    values: torch.Tensor
    row_ids: Sequence[str]


class StepGuard:
    """Looks for numbers that are not finite in an optimizer step, with one synchronisation of the host."""

    def __init__(self, device: torch.device) -> None:
        """No micro-batch has been seen; ranks agree by tensors on `device`."""
        self.device = device
        self.batches: list[MicroBatch] = []

    def add(self, result: PreferenceLoss, row_ids: Sequence[str]) -> None:
        """Remember the losses of a micro-batch until `check`."""
        parts = {"loss": result.total.detach(), **result.parts, "nll": result.nll.detach()}
        values = torch.stack([value.double() for value in parts.values()])
        self.batches.append(MicroBatch(tuple(parts), values, row_ids))

    def check(self, grad_norm: torch.Tensor | float | None, model: torch.nn.Module) -> str | None:
        """What is not finite in this step, naming rows, parts of the loss or parameters; None where all is well.

        A collective that says the same on all ranks.

        Args:
            grad_norm: of the step, over all ranks; None where it is not known, or not to be judged.
            model: whose gradients are at fault if the losses are not.
        """
        batches, self.batches = self.batches, []
        numbers = [torch.zeros((), dtype=torch.float64, device=self.device), *(batch.values[0] for batch in batches)]
        if grad_norm is not None:
            numbers.append(torch.as_tensor(grad_norm, dtype=torch.float64, device=self.device))
        is_wrong = (~torch.isfinite(torch.stack(numbers))).any().int()
        if dist.is_initialized():
            dist.all_reduce(is_wrong, op=dist.ReduceOp.MAX)
        return describe(batches, grad_norm, model) if is_wrong.item() else None


def describe(batches: Sequence[MicroBatch], grad_norm: torch.Tensor | float | None, model: torch.nn.Module) -> str:
    """The losses of all ranks that are not finite; else the gradient, and the rows that it came of. A collective."""
    mine = [(list(b.row_ids), dict(zip(b.names, b.values.tolist(), strict=True))) for b in batches]
    gathered = [batch for part in gather_objects(mine) for batch in part]
    wrong = [(rows, parts) for rows, parts in gathered if not math.isfinite(parts["loss"])]
    if wrong:
        told = "; ".join(f"loss is {parts.pop('loss')} with parts {parts} for rows {rows}" for rows, parts in wrong)
        return f"{told}: look at these rows, or lower --learning_rate"
    rows = [row for rows, _ in gathered for row in rows]
    of_rows = f"rows {rows[:ROWS_NAMED]}{f' and {len(rows) - ROWS_NAMED} more' if len(rows) > ROWS_NAMED else ''}"
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    of_names = f" in {len(names)} parameters, first {names[:3]}" if names else ""
    return f"losses are finite, but the norm of the gradient is {float(grad_norm or 0)}{of_names}; {of_rows}"


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
