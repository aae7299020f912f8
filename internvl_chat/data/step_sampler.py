"""The micro-batches of one rank, the pairs of each step dealt by cost (`steps`).

Every rank has the same number of micro-batches, so that none waits for ever; some may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from internvl_chat.data.steps import Sizes, plan_step


class StepSampler(Sampler[list[int]]):
    """Micro-batches of one rank, step by step; a function of seed and epoch, the same on all ranks."""

    def __init__(
        self,
        sizes: Sizes,
        *,
        pairs_per_step: int,
        micro_batches: int = 1,
        most_tokens: float = np.inf,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        group_by: str = "none",
    ) -> None:
        """Plan epochs.

        Args:
            sizes: of the pair at each place of an epoch.
            pairs_per_step: over all ranks; the last step of an epoch may have fewer.
            micro_batches: of a rank in a step.
            most_tokens: packed tokens of a micro-batch, where `micro_batches` are enough for that.
            rank: whose micro-batches to yield.
            world_size: number of ranks.
            shuffle: draw the order anew in each epoch; else that of the mixture.
            seed: of the order.
            group_by: what pairs of a group share, for the books.
        """
        self.sizes, self.group_by = sizes, group_by
        self.pairs_per_step, self.micro_batches, self.most_tokens = pairs_per_step, micro_batches, most_tokens
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        _, self._group, self._group_sizes = np.unique(sizes.groups, return_inverse=True, return_counts=True)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    @property
    def most_together(self) -> int:
        """Pairs of the largest group; fewer of them meet where it is split."""
        return int(self._group_sizes.max(initial=1))

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self._group) // self.pairs_per_step)

    def __len__(self) -> int:
        return self.num_steps * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        for places in self.steps(self.epoch):
            yield from (batch.tolist() for batch in self.plan(places)[self.rank :: self.world_size])

    def steps(self, epoch: int) -> list[np.ndarray]:
        """The places of each step of an epoch, those of a group side by side."""
        order = self._places_in_order(epoch)
        return [order[start : start + self.pairs_per_step] for start in range(0, len(order), self.pairs_per_step)]

    def plan(self, places: np.ndarray) -> list[np.ndarray]:
        """The places of each micro-batch of a step: those of all ranks that run at once, then the next."""
        slots = self.micro_batches * self.world_size
        batches = plan_step(self.sizes.take(places), slots, self.world_size, self.most_tokens)
        return [places[batch] for batch in batches]

    def _places_in_order(self, epoch: int) -> np.ndarray:
        """All places, groups in the order of the epoch and each group's places side by side."""
        if self.shuffle:
            rank_of_group = np.random.default_rng([self.seed, epoch]).permutation(len(self._group_sizes))
        else:
            rank_of_group = np.full(len(self._group_sizes), len(self._group))
            np.minimum.at(rank_of_group, self._group, np.arange(len(self._group)))
        return np.argsort(rank_of_group[self._group], kind="stable")
