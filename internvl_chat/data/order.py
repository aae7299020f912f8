"""Which pairs a step takes and in which order: a function of data, flags and seed, whatever was trained before.

So a resumed run finds its place by counting steps, also on another number of ranks as long as a step has as many pairs.
Every place of the mixture comes once an epoch; nothing is repeated to make ranks even, the last step may be smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from internvl_chat.arguments import MPOConfig
from internvl_chat.data.costs import place_costs
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.sampler import StepSampler, prompt_groups


class EpochSampler(Sampler[list[int]]):
    """Micro-batches of one rank: the epoch in its order, cut into micro-batches that ranks take in turn."""

    def __init__(
        self,
        num_places: int,
        order: Callable[[int], Sequence[int]],
        *,
        micro_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan epochs.

        Args:
            num_places: places of an epoch.
            order: gives the places in their order for the number of an epoch, the same on every rank.
            micro_batch_size: pairs of a micro-batch; the last ones may have fewer, or none.
            rank: whose micro-batches to yield.
            world_size: number of ranks.
        """
        self.num_places = num_places
        self.order = order
        self.micro_batch_size = micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_places // (self.micro_batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        places = self.order(self.epoch)
        for turn in range(len(self)):
            start = (turn * self.world_size + self.rank) * self.micro_batch_size
            yield list(places[start : start + self.micro_batch_size])


def train_sampler(
    dataset: MixtureDataset, args: MPOConfig, rank: int = 0, world_size: int = 1
) -> EpochSampler | StepSampler:
    """The micro-batches of a rank as the flags want them; with `--balance_ranks` a collective.

    Raises:
        ValueError: `--train_sampling_strategy` names an order that there is not.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    if args.group_prompts or args.balance_ranks:
        costs, shared = dataset.lengths(), None
        if args.balance_ranks:
            by_part = place_costs(dataset, rank, world_size, quiet=args.disable_tqdm)
            costs, shared = by_part.sum(axis=1), by_part[:, 0]
        return StepSampler(
            costs,
            prompt_groups(dataset.mixture) if args.group_prompts else None,
            shared=shared,
            micro_batch_size=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            rank=rank,
            world_size=world_size,
            shuffle=args.train_sampling_strategy != "sequential",
            seed=seed,
        )
    return EpochSampler(
        len(dataset),
        _order(dataset, args, seed, pairs_per_step(args, world_size)),
        micro_batch_size=args.per_device_train_batch_size,
        rank=rank,
        world_size=world_size,
    )


def pairs_per_step(args: MPOConfig, world_size: int) -> int:
    """Pairs of an optimizer step over all ranks."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size


def _order(dataset: MixtureDataset, args: MPOConfig, seed: int, step_size: int) -> Callable[[int], Sequence[int]]:
    """The order of an epoch by its number; each epoch is drawn anew."""
    if args.train_sampling_strategy == "sequential":
        return lambda epoch: range(len(dataset))
    if args.train_sampling_strategy == "random":
        return lambda epoch: torch.randperm(len(dataset), generator=_seeded(seed + epoch)).tolist()
    if args.train_sampling_strategy == "group_by_length":
        lengths = dataset.lengths().tolist()
        return lambda epoch: get_length_grouped_indices(lengths, step_size, generator=_seeded(seed + epoch))
    known = "random, sequential or group_by_length; --balance_ranks True deals the pairs of a step by their cost"
    raise ValueError(f"--train_sampling_strategy {args.train_sampling_strategy} is unknown: take {known}")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
