"""Orders of epochs: each place once, the same pairs in a step on any number of ranks."""

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from internvl_chat.data.order import EpochSampler, train_sampler


class Places:
    """As much of a data set as an order needs."""

    def __len__(self):
        return 23

    def lengths(self):
        return np.arange(23) * 7 % 23


def sampler(rank=0, world=1, **changes):
    settings = {
        "group_by": "none",
        "tokens_per_device": 0,
        "given_accumulation": None,
        "balance_ranks": False,
        "train_sampling_strategy": "random",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4 // world,
        "seed": 3,
        "data_seed": None,
        **changes,
    }
    return train_sampler(Places(), SimpleNamespace(**settings), rank, world)


def steps_of(world, epoch=0, **changes):
    """Pairs of each step of 8."""
    ranks = [sampler(rank, world, **changes) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(epoch)
    batches = [list(rank) for rank in ranks]
    assert {len(own) for own in batches} == {len(ranks[0])}
    in_turn = list(chain(*zip(*batches, strict=True)))
    return [sorted(chain(*in_turn[k : k + 4])) for k in range(0, len(in_turn), 4)]


@pytest.mark.parametrize("strategy", ["random", "sequential", "group_by_length"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_steps_take_every_place_once_and_the_same_ones_on_any_number_of_ranks(strategy, world):
    steps = steps_of(world, train_sampling_strategy=strategy)
    assert sorted(chain(*steps)) == list(range(23))
    assert steps == steps_of(1, train_sampling_strategy=strategy)


def test_an_epoch_is_a_function_of_seed_and_number():
    torch.rand(5)  # the generator of the training does not matter
    assert steps_of(1, epoch=1) == steps_of(1, epoch=1)
    assert steps_of(1, epoch=1) != steps_of(1, epoch=0) != steps_of(1, seed=4)
    assert steps_of(1, data_seed=4) == steps_of(1, seed=4)


def test_the_random_order_is_that_of_transformers():
    expected = torch.randperm(23, generator=torch.Generator().manual_seed(3)).tolist()
    assert list(chain(*sampler())) == expected


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_an_epoch_takes_the_seed_and_its_number_together(strategy):
    assert steps_of(1, epoch=1, seed=3, train_sampling_strategy=strategy) == steps_of(
        1, epoch=0, seed=4, train_sampling_strategy=strategy
    )


def test_like_lengths_come_together():
    def neighbours(strategy):
        order = list(
            chain(
                *sampler(train_sampling_strategy=strategy, per_device_train_batch_size=1, gradient_accumulation_steps=1)
            )
        )
        return np.abs(np.diff(Places().lengths()[order])).mean()

    assert neighbours("group_by_length") < 0.8 * neighbours("random")


def test_ranks_without_a_rest_get_an_empty_batch():
    ranks = [
        list(EpochSampler(5, lambda epoch: range(5), micro_batch_size=2, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert ranks == [[[0, 1], [4]], [[2, 3], []]]


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="batch_rebalance is unknown: take random"):
        sampler(train_sampling_strategy="batch_rebalance")
