"""Which pairs a step takes, in which order and on which rank: a function of data, flags and seed alone.

So a resumed run finds its position by counting steps, also on another number of ranks as long as a step has as many
pairs. Every place of the mixture comes once an epoch; nothing is repeated to make ranks even, the last step may be
smaller.

Plain sampling cuts the epoch into micro-batches that ranks take in turn (`EpochSampler`). `--group_by`,
`--balance_ranks` and `--tokens_per_device` deal the pairs of each step by what they cost (`step_sampler`,
`steps`), in as many micro-batches as `planning` found at the start. A step takes the same number of pairs in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.groups import prompt_groups as prompt_groups
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.data.planning import OrderFlags, planned_sampler
from internvl_chat.data.step_sampler import StepSampler
from internvl_chat.model.upstream import get_length_grouped_indices

IN_FORCE = "groups in force"  # of the facts: what --group_by came to


class EpochSampler(Sampler[list[int]]):
    """Micro-batches of one rank: the epoch in its order, cut into micro-batches that ranks take in turn."""

    most_together = 1  # pairs that are brought together for what they share

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
    dataset: MixtureDataset, args: OrderFlags, rank: int = 0, world_size: int = 1, *, in_force: str | None = None
) -> EpochSampler | StepSampler:
    """The micro-batches of a rank as the flags want them; a collective where pairs are dealt by cost.

    Args:
        dataset: the mixture.
        args: the flags.
        rank: whose micro-batches.
        world_size: number of ranks with rows of their own.
        in_force: groups of the run that goes on, see `groups_in_force`; None of a new one, which may be ungrouped
            where its groups gain nothing.

    Raises:
        ValueError: `--train_sampling_strategy` names an order that there is not.
    """
    if deals_by_cost(args):
        step_size = pairs_per_step(args, world_size)
        return planned_sampler(
            dataset, args, pairs_per_step=step_size, rank=rank, world_size=world_size, in_force=in_force
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    return EpochSampler(
        len(dataset),
        _order(dataset, args, seed, pairs_per_step(args, world_size)),
        micro_batch_size=args.per_device_train_batch_size,
        rank=rank,
        world_size=world_size,
    )


def pairs_per_step(args: OrderFlags, world_size: int) -> int:
    """Pairs of an optimizer step over all ranks, by the flags as they were given."""
    return args.per_device_train_batch_size * (args.given_accumulation or args.gradient_accumulation_steps) * world_size


def deals_by_cost(args: OrderFlags) -> bool:
    """Whether the pairs of a step are dealt by what they cost."""
    return args.group_by != "none" or args.balance_ranks or bool(args.tokens_per_device)


def order_facts(datasets: Mapping[str, MixedDataset], args: OrderFlags, data_world_size: int) -> dict[str, Any]:
    """What the position in the data depends on; as JSON gives it back."""
    return {
        "rows of an epoch": {name: len(data.order) for name, data in datasets.items()},
        "pairs of a step": pairs_per_step(args, data_world_size),
        "--seed": args.seed,
        "--data_seed": args.data_seed,
        "--train_sampling_strategy": str(args.train_sampling_strategy),
        "--group_by": args.group_by,
        "--balance_ranks": args.balance_ranks,
        "limit of tokens (--tokens_per_device)": bool(args.tokens_per_device),
    }


def plan_facts(sampler: EpochSampler | StepSampler, args: OrderFlags) -> dict[str, Any]:
    """What was found when the steps were planned, for starts that go on; {} where nothing was.

    The number of micro-batches is that of these ranks, epochs and tokens: others have another one, and the same steps.
    """
    if not isinstance(sampler, StepSampler):
        return {}
    made = f"with {sampler.world_size} ranks, --tokens_per_device {args.tokens_per_device}, {epochs_said(args)}"
    return {IN_FORCE: sampler.group_by, f"micro-batches of a step {made}": sampler.micro_batches}


def epochs_said(args: OrderFlags) -> str:
    """How long the run is, by its flags."""
    return f"--max_steps {args.max_steps}" if args.max_steps > 0 else f"--num_train_epochs {args.num_train_epochs:g}"


def facts_of(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a checkpoint, completed where an older version wrote them."""
    facts = dict(kept)
    was_grouped = facts.pop("--group_prompts", False)
    return {"--group_by": "prompt" if was_grouped else "none", "limit of tokens (--tokens_per_device)": False, **facts}


def groups_in_force(kept: Mapping[str, Any]) -> str:
    """By what the run of a checkpoint's facts groups its pairs, whatever its flags say."""
    return str(kept.get(IN_FORCE, facts_of(kept)["--group_by"]))


def _order(dataset: MixtureDataset, args: OrderFlags, seed: int, step_size: int) -> Callable[[int], Sequence[int]]:
    """The order of an epoch by its number; each epoch is drawn anew."""
    if args.train_sampling_strategy == "sequential":
        return lambda epoch: range(len(dataset))
    if args.train_sampling_strategy == "random":
        return lambda epoch: torch.randperm(len(dataset), generator=_seeded(seed + epoch)).tolist()
    if args.train_sampling_strategy == "group_by_length":
        lengths = dataset.lengths().tolist()
        return lambda epoch: get_length_grouped_indices(lengths, step_size, generator=_seeded(seed + epoch))
    known = "random, sequential or group_by_length; --balance_ranks True assigns the pairs of a step by their cost"
    raise ValueError(f"--train_sampling_strategy {args.train_sampling_strategy} is unknown: take {known}")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
