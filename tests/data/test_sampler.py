"""Steps by hand: who meets whom, on which rank, and that nobody is left out."""

from itertools import chain

import numpy as np
import pytest

from internvl_chat.data.order import StepSampler
from internvl_chat.data.steps import Sizes


def sizes_of(costs, groups=None, shared=None):
    """Pairs of these costs, of which half is the prompt's unless said otherwise, and as many tokens."""
    costs = np.asarray(costs, float)
    shared = costs / 2 if shared is None else np.asarray(shared, float)
    groups = np.arange(len(costs)) if groups is None else groups
    return Sizes(shared, costs - shared, groups, shared, costs - shared)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_out_every_place_once_in_equally_many_batches(world_size):
    costs = np.random.default_rng(0).integers(1, 100, 53)
    samplers = [
        StepSampler(
            sizes_of(costs), pairs_per_step=6 * world_size, micro_batches=3, rank=rank, world_size=world_size, seed=5
        )
        for rank in range(world_size)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert {len(own) for own in batches} == {len(samplers[0])}
    assert len(samplers[0]) % 3 == 0
    assert sorted(chain(*chain(*batches))) == list(range(53))


def test_ranks_are_loaded_alike():
    costs = np.random.default_rng(1).lognormal(7, 1, 64 * 50)
    world = [list(StepSampler(sizes_of(costs), pairs_per_step=64, rank=rank, world_size=8)) for rank in range(8)]
    loads = np.array([[costs[batch].sum() for batch in own] for own in world])  # (ranks, steps)
    plain = costs.reshape(-1, 8, 8).sum(-1).T
    assert (loads.mean(0) / loads.max(0)).mean() > 0.9
    assert (plain.mean(0) / plain.max(0)).mean() < 0.75


def test_pairs_of_a_prompt_stay_together():
    groups = np.repeat(np.arange(20), 4)
    places = np.random.default_rng(2).permutation(80)
    sampler = StepSampler(sizes_of(np.ones(80), groups[places]), pairs_per_step=16, micro_batches=2)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [8] * 10
    for batch in batches:
        _, sizes = np.unique(groups[places][batch], return_counts=True)
        assert (sizes == 4).all()


def test_a_group_costs_its_prompt_once_and_each_pair_its_answers():
    """Three pairs of 6, of which 5 are the prompt's: 5 + 3 * 1 = 8, more than 5 and less than 9."""
    costs, shared = np.array([6, 6, 6, 9, 5, 2]), np.array([5, 5, 5, 0, 0, 0])
    groups = np.array([0, 0, 0, 1, 2, 3])

    def slots(sizes):
        ranks = [StepSampler(sizes, pairs_per_step=6, rank=rank, world_size=2, shuffle=False) for rank in range(2)]
        return [list(rank)[0] for rank in ranks]

    assert slots(sizes_of(costs, groups, shared)) == [[0, 1, 2, 4], [3, 5]]  # 8 + 5 and 9 + 2, the fuller one first
    # Where half of the costs is the prompts': 3 + 3 * 3 = 12.
    assert slots(sizes_of(costs, groups)) == [[0, 1, 2, 5], [3, 4]]  # 12 + 2 and 9 + 5


def test_a_step_has_its_number_of_pairs_even_if_that_splits_a_group():
    groups = np.repeat(np.arange(4), 3)
    batches = list(StepSampler(sizes_of(np.ones(12), groups), pairs_per_step=4, micro_batches=2))
    assert [len(a) + len(b) for a, b in zip(batches[::2], batches[1::2], strict=True)] == [4, 4, 4]


def test_order_changes_with_epoch_and_seed_and_with_nothing_else():
    def order(seed, epoch, shuffle=True):
        sampler = StepSampler(sizes_of(np.ones(30)), pairs_per_step=3, seed=seed, shuffle=shuffle)
        sampler.set_epoch(epoch)
        return list(chain(*sampler))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 3, shuffle=False) == list(range(30))


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="3 groups for 4 costs"):
        sizes_of(np.ones(4), np.ones(3))
