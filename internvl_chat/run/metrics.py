"""What a run reports: per-pair means over all ranks, summed on the device and read once per log entry."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from internvl_chat.losses.mixture import PreferenceLoss
from internvl_chat.packed.forward import PairLogps
from internvl_chat.run.process import gather_objects


def pair_metrics(
    policy: PairLogps, result: PreferenceLoss, reference: PairLogps | None = None
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
        "nll_loss": result.nll.detach() * len(policy.chosen),
        "logps/chosen": policy.chosen.sum(),
        "lengths/chosen": policy.chosen_lengths.sum(),
    }
    metrics |= {f"losses/{name}": losses.sum() for name, losses in result.losses.items()}
    if reference is not None:
        metrics["kl/chosen"] = ((policy.chosen - reference.chosen) / policy.chosen_lengths).sum()
    if policy.rejected is not None and policy.rejected_lengths is not None:
        margins = result.chosen_rewards - result.rejected_rewards
        longer = policy.chosen_lengths - policy.rejected_lengths
        metrics |= {
            "logps/rejected": policy.rejected.sum(),
            "lengths/rejected": policy.rejected_lengths.sum(),
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
