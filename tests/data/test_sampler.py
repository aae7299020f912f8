"""Steps by hand: who meets whom, on which rank, and that nobody is left out."""

import json
from itertools import chain

import numpy as np
import pytest

from internvl_chat.data.mixture import Mixture
from internvl_chat.data.order import StepSampler, assign, prompt_groups


def test_the_costliest_goes_where_least_is():
    units = [(5, [0]), (4, [1]), (3, [2]), (3, [3]), (3, [4])]
    assert assign(units, 2) == [[0, 3], [1, 2, 4]]


def test_more_slots_than_units_leave_empty_ones():
    assert assign([(1, [7])], 3) == [[7], [], []]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_out_every_place_once_in_equally_many_batches(world_size):
    costs = np.random.default_rng(0).integers(1, 100, 53)
    samplers = [
        StepSampler(costs, micro_batch_size=2, accumulation=3, rank=rank, world_size=world_size, seed=5)
        for rank in range(world_size)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert {len(own) for own in batches} == {len(samplers[0])}
    assert len(samplers[0]) % 3 == 0
    assert sorted(chain(*chain(*batches))) == list(range(53))


def test_ranks_are_loaded_alike():
    costs = np.random.default_rng(1).lognormal(7, 1, 64 * 50)
    world = [list(StepSampler(costs, micro_batch_size=8, rank=rank, world_size=8)) for rank in range(8)]
    loads = np.array([[costs[batch].sum() for batch in own] for own in world])  # (ranks, steps)
    plain = costs.reshape(-1, 8, 8).sum(-1).T
    assert (loads.mean(0) / loads.max(0)).mean() > 0.9
    assert (plain.mean(0) / plain.max(0)).mean() < 0.75


def test_pairs_of_a_prompt_stay_together():
    groups = np.repeat(np.arange(20), 4)
    places = np.random.default_rng(2).permutation(80)
    sampler = StepSampler(np.ones(80), groups[places], micro_batch_size=8, accumulation=2)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [8] * 10
    for batch in batches:
        _, sizes = np.unique(groups[places][batch], return_counts=True)
        assert (sizes == 4).all()


def test_a_group_costs_its_prompt_once_and_each_pair_its_answers():
    """Three pairs of 6, of which 5 are the prompt's: 5 + 3 * 1 = 8, more than 5 and less than 9."""
    costs, shared = np.array([6, 6, 6, 9, 5, 2]), np.array([5, 5, 5, 0, 0, 0])
    groups = np.array([0, 0, 0, 1, 2, 3])
    options = {"micro_batch_size": 3, "shuffle": False}
    slots = [
        list(StepSampler(costs, groups, shared=shared, rank=rank, world_size=2, **options))[0] for rank in range(2)
    ]
    assert slots == [[3, 5], [0, 1, 2, 4]]  # 9 + 2 and 8 + 5
    # Half of the costs is the prompts', where nobody says: 3 + 3 * 3 = 12.
    slots = [list(StepSampler(costs, groups, rank=rank, world_size=2, **options))[0] for rank in range(2)]
    assert slots == [[0, 1, 2, 5], [3, 4]]


def test_a_step_has_its_number_of_pairs_even_if_that_splits_a_group():
    groups = np.repeat(np.arange(4), 3)
    batches = list(StepSampler(np.ones(12), groups, micro_batch_size=2, accumulation=2))
    assert [len(a) + len(b) for a, b in zip(batches[::2], batches[1::2], strict=True)] == [4, 4, 4]


def test_order_changes_with_epoch_and_seed_and_with_nothing_else():
    def order(seed, epoch, shuffle=True):
        sampler = StepSampler(np.ones(30), micro_batch_size=3, seed=seed, shuffle=shuffle)
        sampler.set_epoch(epoch)
        return list(chain(*sampler))

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 3, shuffle=False) == list(range(30))


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="3 groups for 4 costs"):
        StepSampler(np.ones(4), np.ones(3), micro_batch_size=1)


def test_prompts_of_a_mixture(tmp_path):
    rows = [
        {"image": "a.png", "question": "q", "chosen": "1", "rejected": "2"},
        {"image": "a.png", "question": "q", "chosen": "1", "rejected": "3"},
        {"image": "b.png", "question": "q", "chosen": "1", "rejected": "2"},
    ]
    lines = [*(json.dumps(row) for row in rows), "not JSON"]
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    meta = {
        name: {"root": str(tmp_path), "annotation": str(tmp_path / f"{name}.jsonl"), "repeat_time": repeat}
        for name, repeat in (("x", 2), ("y", 1))
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    mixture = Mixture.from_meta(tmp_path / "meta.json", cache_dir=tmp_path / "cache")
    groups = prompt_groups(mixture)
    named = {}
    for place, group in enumerate(groups):
        data, row, copy = mixture.locate(place)
        named.setdefault(group, set()).add((data.spec.name, row, copy))
    expected = [{(name, 0, copy), (name, 1, copy)} for name, copy in (("x", 0), ("x", 1), ("y", 0))]
    expected += [{(name, row, copy)} for name, copy in (("x", 0), ("x", 1), ("y", 0)) for row in (2, 3)]
    assert sorted(map(sorted, named.values())) == sorted(map(sorted, expected))


def test_another_video_clip_or_history_is_another_prompt(tmp_path):
    row = {"question": "q", "chosen": "1", "rejected": "2"}
    others = [{"video": "a.mp4"}, {"video": "b.mp4"}, {"video": "a.mp4", "clip": [0, 1]}, {"history": [["a", "b"]]}]
    lines = [json.dumps({**row, **more}) for more in ({}, *others) for _ in range(2)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "meta.json").write_text(json.dumps({"x": {"root": ".", "annotation": str(tmp_path / "x.jsonl")}}))
    groups = prompt_groups(Mixture.from_meta(tmp_path / "meta.json", cache_dir=tmp_path / "cache"))
    assert len(set(groups.tolist())) == 5 and len(groups) == 10
