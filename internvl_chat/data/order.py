"""Which pairs a step takes, in which order and on which rank: a function of data, flags and seed alone.

So a resumed run finds its position by counting steps, also on another number of ranks as long as a step has as many
pairs. Every place of the mixture comes once an epoch; nothing is repeated to make ranks even, the last step may be
smaller.

`EpochSampler` cuts the epoch into micro-batches that ranks take in turn. `StepSampler` assigns the pairs of a step to
micro-batches by their cost, pairs of one prompt together: whole prompt groups, the costliest first, always to the
micro-batch with the least to do. A step takes the same number of pairs as plain sampling would, and every rank has the
same number of micro-batches; one may be empty.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import orjson
import torch
import xxhash
from torch.utils.data import Sampler

from internvl_chat.data.costs import place_costs
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.mixture import MixedDataset, Mixture
from internvl_chat.model.upstream import get_length_grouped_indices
from internvl_chat.records.rows import Source, own_keys


class OrderFlags(Protocol):
    """The flags of a training that decide its order, under their names."""

    seed: int
    data_seed: int | None
    train_sampling_strategy: str
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    group_prompts: bool
    balance_ranks: bool
    disable_tqdm: bool | None


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


def prompt_groups(mixture: Mixture) -> np.ndarray:
    """(places,) uint64, equal where data set, copy, images or video, history and question are: each place's prompt.

    Reads every row once. A row that is not JSON is a group of its own; the data set skips it when its turn comes.
    """
    groups = []
    for data in mixture.datasets:
        rows = np.empty(len(data.rows), np.uint64)
        for row in range(len(data.rows)):
            line, number = data.rows[row]
            rows[row] = xxhash.xxh3_64_intdigest(_prompt_of(line) or str(number).encode(), seed=data.number)
        copies = (data.order // len(data.rows)).astype(np.uint64)
        # Golden-ratio steps: copies of a row land in groups of their own.
        groups.append(rows[data.order % len(data.rows)] + copies * np.uint64(0x9E3779B97F4A7C15))
    return np.concatenate(groups)


def _prompt_of(line: bytes) -> bytes:
    """What a row asks, and of which pictures; nothing of a row that training skips."""
    try:
        row = orjson.loads(line)
        row = own_keys(row, Source("", 0)) if isinstance(row, dict) else {}
    except ValueError:  # no JSON, or pictures under a key that nobody can read
        return b""
    more = {name: row[name] for name in ("video", "clip", "history") if row.get(name)}
    return orjson.dumps([row.get("image"), row.get("question"), *more.items()]) if row else b""


def assign(units: Sequence[tuple[float, list[int]]], num_batches: int) -> list[list[int]]:
    """Assign units (cost, places) to micro-batches, the costliest first, each to the one with the least so far.

    Longest-processing-time scheduling: the fullest one has at most 4/3 of the best possible (Graham 1969).
    """
    batches: list[list[int]] = [[] for _ in range(num_batches)]
    loads = [(0.0, number) for number in range(num_batches)]
    for cost, places in sorted(units, key=lambda unit: (-unit[0], unit[1])):
        load, number = heapq.heappop(loads)
        batches[number].extend(places)
        heapq.heappush(loads, (load + cost, number))
    return batches


class StepSampler(Sampler[list[int]]):
    """Micro-batches of one rank, step by step; a function of seed and epoch, the same on all ranks."""

    def __init__(
        self,
        costs: np.ndarray,
        groups: np.ndarray | None = None,
        *,
        shared: np.ndarray | None = None,
        micro_batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        """Plan epochs.

        Args:
            costs: (places,) work of the pair at each place >= 0, in any unit.
            groups: (places,) equal where places share a prompt; None for places of their own.
            shared: (places,) how much of it is the prompt's, done once for a group; None for half of it.
            micro_batch_size: pairs of a micro-batch on the average.
            accumulation: micro-batches of a rank in a step.
            rank: whose micro-batches to yield.
            world_size: number of ranks.
            shuffle: draw the order anew in each epoch; else that of the mixture.
            seed: of the order.

        Raises:
            ValueError: costs, groups and shared differ in length.
        """
        for name, given in (("groups", groups), ("shared", shared)):
            if given is not None and len(given) != len(costs):
                raise ValueError(f"{len(given)} {name} for {len(costs)} costs: both are per place of the epoch")
        self.costs = costs
        self.shared = costs / 2 if shared is None else shared
        self.groups = np.arange(len(costs)) if groups is None else groups
        self.num_batches = accumulation * world_size
        self.pairs_per_step = micro_batch_size * self.num_batches
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        steps = -(-len(self.costs) // self.pairs_per_step)
        return steps * self.num_batches // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        places = self._places_in_order()
        for start in range(0, len(places), self.pairs_per_step):
            batches = assign(self._units(places[start : start + self.pairs_per_step]), self.num_batches)
            yield from batches[self.rank :: self.world_size]

    def _places_in_order(self) -> np.ndarray:
        """All places, groups in the order of the epoch and each group's places side by side."""
        _, number, sizes = np.unique(self.groups, return_inverse=True, return_counts=True)
        if self.shuffle:
            rank_of_group = np.random.default_rng([self.seed, self.epoch]).permutation(len(sizes))
        else:
            first = np.full(len(sizes), len(number))
            np.minimum.at(first, number, np.arange(len(number)))
            rank_of_group = first
        return np.argsort(rank_of_group[number], kind="stable")

    def _units(self, places: np.ndarray) -> list[tuple[float, list[int]]]:
        """The places of a step as (cost, places) of each group that is in it."""
        borders = np.flatnonzero(np.diff(self.groups[places])) + 1
        parts = np.split(places, borders)
        return [(self._cost_of_group(part), part.tolist()) for part in parts]

    def _cost_of_group(self, places: np.ndarray) -> float:
        """Its prompt once, and what each pair adds."""
        own = self.costs[places] - self.shared[places]
        return float(self.shared[places].max() + own.sum())


def train_sampler(
    dataset: MixtureDataset, args: OrderFlags, rank: int = 0, world_size: int = 1
) -> EpochSampler | StepSampler:
    """The micro-batches of a rank as the flags want them; with `--balance_ranks` a collective.

    Raises:
        ValueError: `--train_sampling_strategy` names an order that there is not.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    if args.group_prompts or args.balance_ranks:
        costs, shared = dataset.lengths(), None
        if args.balance_ranks:
            by_part = place_costs(dataset, rank, world_size, quiet=bool(args.disable_tqdm))
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


def pairs_per_step(args: OrderFlags, world_size: int) -> int:
    """Pairs of an optimizer step over all ranks."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size


def order_facts(datasets: Mapping[str, MixedDataset], args: OrderFlags, data_world_size: int) -> dict[str, Any]:
    """What the position in the data depends on; as JSON gives it back."""
    return {
        "rows of an epoch": {name: len(data.order) for name, data in datasets.items()},
        "pairs of a step": pairs_per_step(args, data_world_size),
        "--seed": args.seed,
        "--data_seed": args.data_seed,
        "--train_sampling_strategy": str(args.train_sampling_strategy),
        "--group_prompts": args.group_prompts,
        "--balance_ranks": args.balance_ranks,
    }


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
