"""The plan of one step by hand: whole groups where they pay, parts or single pairs where they would keep ranks idle."""

from itertools import chain

import numpy as np
import pytest

from internvl_chat.data.steps import (
    Parts,
    Sizes,
    deal,
    fit,
    fitting_parts,
    plan_step,
    slot_costs,
    slot_tokens,
    slots_needed,
    step_time,
)


def step_of(*groups, shared=10, own=1):
    """Groups of so many pairs; a prompt costs `shared` and has as many tokens, the answers of a pair `own`."""
    number = np.repeat(np.arange(len(groups)), groups)
    ones = np.ones(len(number))
    return Sizes(shared * ones, own * ones, number, shared * ones, own * ones)


def slots_of(batches, pairs):
    """Micro-batch of each pair."""
    result = np.full(pairs, -1)
    for number, batch in enumerate(batches):
        result[batch] = number
    return result


def time_of(step, slots, ranks, most_tokens=np.inf):
    batches = plan_step(step, slots, ranks, most_tokens)
    assert len(batches) == slots
    assert sorted(chain(*(batch.tolist() for batch in batches))) == list(range(len(step.own)))
    costs = slot_costs(step, slots_of(batches, len(step.own)), slots)
    turns = costs.reshape(-1, ranks).max(axis=1).sum()
    assert turns == step_time(costs, ranks)  # the turns are as they should be: like micro-batches at once
    return turns


def test_the_costliest_goes_where_least_is():
    assert deal(np.array([5, 4, 3, 3, 3]), 2).tolist() == [0, 1, 1, 0, 1]


def test_more_slots_than_units_leave_empty_ones():
    assert deal(np.array([1, 2]), 3).tolist() == [1, 0]


def test_a_full_slot_is_passed_by_and_a_unit_too_large_takes_an_empty_one():
    costs, tokens = np.array([5, 4, 3, 3]), np.array([9, 4, 4, 4])
    assert deal(costs, 2, tokens, 12).tolist() == [0, 1, 1, 1]  # the third of cost 3 would go to slot 0
    assert deal(costs, 2, tokens, 8) is None  # the first alone, two of four tokens, and one too many
    assert deal(costs, 3, tokens, 8).tolist() == [0, 1, 2, 2]


def test_few_slots_hold_what_fits():
    assert fit(np.array([4, 6, 5, 5, 9]), 10).tolist() == [1, 1, 2, 2, 0]
    assert fit(np.array([20, 4]), 10).tolist() == [0, 1]


def test_groups_are_cut_into_like_parts():
    parts = Parts.cut(step_of(5, 1), np.array([2, 1]))
    assert parts.number.tolist() == [0, 0, 0, 1, 1, 2]
    assert parts.cost.tolist() == [13, 12, 11] and parts.tokens.tolist() == [13, 12, 11]


def test_groups_are_cut_as_far_as_the_tokens_ask():
    assert len(fitting_parts(step_of(6), 16).cost) == 1
    assert len(fitting_parts(step_of(6), 13).cost) == 2
    assert len(fitting_parts(step_of(6), 12).cost) == 3
    assert len(fitting_parts(step_of(6, 3), 5).cost) == 9  # single pairs, which cannot be cut


def test_whole_groups_where_every_rank_gets_as_many():
    # 4 groups of 4 pairs on 2 ranks: 2 * (10 + 4) and not 8 * (10 + 1) for single pairs
    assert time_of(step_of(4, 4, 4, 4), slots=2, ranks=2) == 28


def test_a_group_is_split_where_ranks_would_wait_for_it():
    # whole: 10 + 8; in two parts: 10 + 4; single pairs on two ranks meet again, 10 + 4
    assert time_of(step_of(8), slots=2, ranks=2) == 14
    assert time_of(step_of(8), slots=8, ranks=2) == 14


def test_single_pairs_where_each_has_a_rank_to_itself():
    step = step_of(4, 4)
    batches = plan_step(step, 8, 8)
    assert [len(batch) for batch in batches] == [1] * 8
    assert time_of(step, slots=8, ranks=8) == 11


@pytest.mark.parametrize("ranks", [1, 4, 16, 64])
@pytest.mark.parametrize("per_prompt", [1, 4, 15])
def test_no_step_is_slower_than_without_groups(ranks, per_prompt):
    rng = np.random.default_rng(ranks * per_prompt)
    number = np.arange(64) // per_prompt
    shared, own = rng.integers(100, 4000, 64)[number].astype(float), rng.integers(50, 2000, 64).astype(float)
    step = Sizes(shared, own, number, shared, own)
    for slots in {ranks, 64}:
        assert time_of(step, slots, ranks) <= time_of(step.apart(), slots, ranks)


def test_eight_ranks_gain_twice_and_more_with_four_pairs_of_a_prompt():
    """An image of 7 tiles, counted twice, and answers of 650 tokens, as the launchers' 256 pairs."""
    step = step_of(*[4] * 64, shared=2 * 7 * 256, own=650)
    assert time_of(step.apart(), 64, 8) / time_of(step, 64, 8) > 2


def test_micro_batches_keep_the_limit_of_tokens():
    rng = np.random.default_rng(3)
    number = np.repeat(np.arange(40), 6)
    shared, own = rng.integers(100, 900, 240)[number].astype(float), rng.integers(20, 300, 240).astype(float)
    step = Sizes(2 * shared, own, number, shared, own)
    for most in (1200, 2000, 8000):
        slots = -(-slots_needed(step, most) // 4) * 4
        batches = plan_step(step, slots, 4, most)
        tokens = slot_tokens(step, slots_of(batches, 240), slots)
        assert tokens.max() <= most
        assert slots <= 1.5 * tokens.sum() / most + 4


def test_a_pair_above_the_limit_sits_alone():
    step = Sizes(*(np.array(values, float) for values in ([9, 1, 1], [9, 1, 1], [0, 1, 2], [9, 1, 1], [9, 1, 1])))
    assert slots_needed(step, 4) == 2
    assert sorted(batch.tolist() for batch in plan_step(step, 2, 1, 4)) == [[0], [1, 2]]


def test_parts_that_meet_again_count_their_prompt_once():
    step = step_of(3, 2)
    assert slot_costs(step, np.array([0, 0, 1, 1, 1]), 3).tolist() == [12, 23, 0]


def test_ranks_sum_up_alike_over_the_turns():
    step = step_of(*[1] * 6)
    costs = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    step = Sizes(np.zeros(6), np.array(costs), step.groups, np.zeros(6), np.zeros(6))
    batches = plan_step(step, 6, 2)
    assert [batch.tolist() for batch in batches] == [[0], [1], [3], [2], [4], [5]]
