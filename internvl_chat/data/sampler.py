"""Which pairs meet in an optimizer step, and on which rank: pairs of one prompt together, ranks loaded alike.

A step takes the same number of pairs as plain sampling would. It deals them to slots, one micro-batch of one rank each:
whole prompt groups, the costliest first, always to the slot with the least to do. Every rank has the same number of
micro-batches; one may be empty.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import orjson
import xxhash
from torch.utils.data import Sampler

from internvl_chat.data.mixture import Mixture
from internvl_chat.records.picture_keys import with_own_keys


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
        row = with_own_keys(row) if isinstance(row, dict) else {}
    except ValueError:  # no JSON, or pictures under a key that nobody can read
        return b""
    more = {name: row[name] for name in ("video", "clip", "history") if row.get(name)}
    return orjson.dumps([row.get("image"), row.get("question"), *more.items()]) if row else b""


def deal(units: Sequence[tuple[float, list[int]]], num_slots: int) -> list[list[int]]:
    """Deal units (cost, places) to slots, the costliest first, each to the slot with the least so far.

    Longest-processing-time scheduling: the fullest slot has at most 4/3 of the best possible (Graham 1969).
    """
    slots: list[list[int]] = [[] for _ in range(num_slots)]
    loads = [(0.0, slot) for slot in range(num_slots)]
    for cost, places in sorted(units, key=lambda unit: (-unit[0], unit[1])):
        load, slot = heapq.heappop(loads)
        slots[slot].extend(places)
        heapq.heappush(loads, (load + cost, slot))
    return slots


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
        self.num_slots = accumulation * world_size
        self.pairs_per_step = micro_batch_size * self.num_slots
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        steps = -(-len(self.costs) // self.pairs_per_step)
        return steps * self.num_slots // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        places = self._places_in_order()
        for start in range(0, len(places), self.pairs_per_step):
            slots = deal(self._units(places[start : start + self.pairs_per_step]), self.num_slots)
            yield from slots[self.rank :: self.world_size]

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
