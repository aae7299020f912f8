"""Numbers of a step, kept on the device: per-pair means over all ranks for the log, and whether all are finite.

`MetricSums` is read once per log entry. `StepGuard` looks at the losses of a step and at its gradient once, on all
ranks together: the only time that the host waits for the device in a step.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from internvl_chat.losses.mixture import PreferenceLoss
from internvl_chat.losses.pair import PreferenceLogps
from internvl_chat.run.process import gather_objects

ROWS_NAMED = 20  # in an error that cannot tell which row it was


def pair_metrics(
    pairs: PreferenceLogps, result: PreferenceLoss, *, has_rejected: bool = True
) -> dict[str, torch.Tensor]:
    """Sums over the B pairs of a micro-batch, each a scalar.

    Names follow trl; `losses/<name>` are the unweighted parts of the mixture. Without rejected answers there are no
    metrics of a preference. Ours are
        kl/chosen: log(pi / pi_ref) per token of chosen answers, nats: how far the policy is from the reference.
        lengths/margin: tokens that the chosen answer has more than the rejected one, in the data.
        lengths/preferred: tokens that the answer with the higher reward has more than the other: above `lengths/margin`
            the policy likes length more than the data do.
    """
    metrics = {
        "nll_loss": result.nll.detach() * len(pairs.policy_chosen),
        "logps/chosen": pairs.policy_chosen.sum(),
        "lengths/chosen": pairs.chosen_lengths.sum(),
    }
    metrics |= {f"losses/{name}": losses.sum() for name, losses in result.losses.items()}
    if pairs.has_reference:
        metrics["kl/chosen"] = (pairs.chosen_logratios / pairs.chosen_lengths).sum()
    if has_rejected:
        margins = result.chosen_rewards - result.rejected_rewards
        longer = pairs.chosen_lengths - pairs.rejected_lengths
        metrics |= {
            "logps/rejected": pairs.policy_rejected.sum(),
            "lengths/rejected": pairs.rejected_lengths.sum(),
            "rewards/chosen": result.chosen_rewards.sum(),
            "rewards/rejected": result.rejected_rewards.sum(),
            "rewards/margins": margins.sum(),
            "rewards/accuracies": (margins > 0).sum(),
            "lengths/margin": longer.sum(),
            "lengths/preferred": (longer * margins.sign()).sum(),
        }
    return {name: value.detach().double() for name, value in metrics.items()}


class MetricSums:
    """Running sums of pair metrics; no host synchronisation until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.num_pairs = 0
        self.num_tokens = 0
        self.started = time.monotonic()

    def restart_clock(self) -> None:
        """Count the seconds of the throughput from now on."""
        self.started = time.monotonic()

    def add(self, metrics: dict[str, torch.Tensor], num_pairs: int, num_tokens: int) -> None:
        """Add one micro-batch: metric sums, its pairs, and the packed tokens it took."""
        self.sums = self.sums | {name: self.sums.get(name, 0) + value for name, value in metrics.items()}
        self.num_pairs += num_pairs
        self.num_tokens += num_tokens

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means per pair over all ranks, throughput since the last reading, peak memory of a rank; then start anew.

        A collective: every rank calls it, also one that saw no pair (it has no names of its own to bring).
        """
        known, peaks = zip(*gather_objects((sorted(self.sums), peak_memory())), strict=True)
        names = sorted(set().union(*known))
        zero = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        counts = torch.tensor([self.num_pairs, self.num_tokens], dtype=torch.float64, device=accelerator.device)
        sums = [self.sums.get(name, zero).to(zero.device) for name in names]
        totals = torch.cat([torch.stack(sums or [zero]), counts])
        *values, pairs, tokens = accelerator.reduce(totals, reduction="sum").tolist()
        seconds = time.monotonic() - self.started
        self.__init__()  # type: ignore[misc]
        if not pairs:
            return {}
        means = {name: value / pairs for name, value in zip(names, values, strict=False)}
        speed = {"pairs_per_second": pairs / seconds, "tokens_per_second": tokens / seconds}
        return means | speed | {"peak_memory_gib": max(peaks)}

    def state_dict(self) -> dict[str, Any]:
        """The sums of this rank as numbers, for a checkpoint between two log entries."""
        return {
            "sums": {name: value.item() for name, value in self.sums.items()},
            "num_pairs": self.num_pairs,
            "num_tokens": self.num_tokens,
            "seconds": time.monotonic() - self.started,
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over saved sums of this rank, or of several that are no more; of none, start anew."""
        self.__init__()  # type: ignore[misc]
        for state in states:
            sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["sums"].items()}
            self.add(sums, state["num_pairs"], state["num_tokens"])
            self.started = min(self.started, time.monotonic() - state["seconds"])


def peak_memory() -> float:
    """Most memory that this process held so far, in GiB: of its GPU where there is one, else of the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB


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
        self.add_parts({"loss": result.total.detach(), **result.parts, "nll": result.nll.detach()}, row_ids)

    def add_parts(self, parts: Mapping[str, torch.Tensor], row_ids: Sequence[str]) -> None:
        """The same of a loss in scalars without gradient, `loss` itself the first."""
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
