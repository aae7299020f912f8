"""What a run reports: per-pair means over all ranks, summed on the device and read once per log entry."""

from __future__ import annotations

import resource
import time

import torch
from accelerate import Accelerator

from internvl_chat.forward import PairLogps
from internvl_chat.losses import PreferenceLoss


def pair_metrics(policy: PairLogps, result: PreferenceLoss) -> dict[str, torch.Tensor]:
    """Sums over the B pairs of a micro-batch, each a scalar.

    Names follow trl; `losses/<name>` are the unweighted parts of the mixture. Without rejected answers there are no
    metrics of a preference.
    """
    metrics = {
        "nll_loss": result.nll.detach() * len(policy.chosen),
        "logps/chosen": policy.chosen.sum(),
        "lengths/chosen": policy.chosen_lengths.sum(),
    }
    metrics |= {f"losses/{name}": losses.sum() for name, losses in result.losses.items()}
    if policy.rejected is not None and policy.rejected_lengths is not None:
        margins = result.chosen_rewards - result.rejected_rewards
        metrics |= {
            "logps/rejected": policy.rejected.sum(),
            "lengths/rejected": policy.rejected_lengths.sum(),
            "rewards/chosen": result.chosen_rewards.sum(),
            "rewards/rejected": result.rejected_rewards.sum(),
            "rewards/margins": margins.sum(),
            "rewards/accuracies": (margins > 0).sum(),
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
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.num_pairs += num_pairs
        self.num_tokens += num_tokens

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means per pair over all ranks, throughput since the last reading, peak memory of a rank; then start anew.

        A collective: every rank calls it, also one that saw no pair (it has no names of its own to bring).
        """
        known, peaks = zip(*gather_objects(accelerator, (sorted(self.sums), peak_memory())), strict=True)
        names = sorted(set().union(*known))
        zero = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        counts = torch.tensor([self.num_pairs, self.num_tokens], dtype=torch.float64, device=accelerator.device)
        totals = torch.cat([torch.stack([self.sums.get(name, zero) for name in names] or [zero]), counts])
        *values, pairs, tokens = accelerator.reduce(totals, reduction="sum").tolist()
        seconds = time.monotonic() - self.started
        self.__init__()  # type: ignore[misc]
        if not pairs:
            return {}
        means = {name: value / pairs for name, value in zip(names, values, strict=False)}
        speed = {"pairs_per_second": pairs / seconds, "tokens_per_second": tokens / seconds}
        return means | speed | {"peak_memory_gib": max(peaks)}


def peak_memory() -> float:
    """Most memory that this process held so far, in GiB: of its GPU where there is one, else of the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB


def gather_objects(accelerator: Accelerator, item: object) -> list:
    """The item of every rank, in rank order."""
    if accelerator.num_processes == 1:
        return [item]
    gathered: list = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, item)
    return gathered
