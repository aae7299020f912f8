"""What a run decides before its first step: groups or none, how many micro-batches, and what its log says of it."""

import json
import logging
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from internvl_chat.arguments import MPOConfig
from internvl_chat.data import planning
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.order import facts_of, groups_in_force, order_facts, pairs_per_step, plan_facts, train_sampler


def rows_of(prompts, per_prompt, image="{}.png"):
    """Pairs that share a prompt each, whose pictures have 1 to 7 tiles of 4 tokens."""
    return [
        {"image": image.format(prompt % 4), "question": f"q{prompt:03}", "chosen": f"c{pair}", "rejected": "r"}
        for prompt in range(prompts)
        for pair in range(per_prompt)
    ]


@pytest.fixture
def dataset_of(tmp_path, tokenizer):
    """Function from rows to a data set."""
    for number in range(4):
        Image.new("RGB", (28 * (number + 1), 28)).save(tmp_path / f"{number}.png")

    def make(rows):
        (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        entry = {"root": str(tmp_path), "annotation": "rows.jsonl", "max_dynamic_patch": 6}
        (tmp_path / "meta.json").write_text(json.dumps({"made": entry}))
        options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 28, "cache_dir": tmp_path / "cache"}
        return MixtureDataset(tmp_path / "meta.json", tokenizer, **options)

    return make


@pytest.fixture
def said(caplog):
    """Function to what the log says."""
    caplog.set_level(logging.INFO, planning.logger.name)
    return lambda: caplog.text


def config(tmp_path, **flags):
    return MPOConfig(output_dir=str(tmp_path), bf16=False, **{"num_train_epochs": 2, **flags})


def places_of(samplers):
    """Places of an epoch in the steps of all ranks."""
    return sorted(chain(*chain(*map(list, samplers))))


def test_groups_that_gain_are_kept_and_the_log_says_what_they_bring(dataset_of, tmp_path, said):
    args = config(tmp_path, group_by="prompt", per_device_train_batch_size=8)
    made = train_sampler(dataset_of(rows_of(16, 4)), args, 0, 2)
    assert (made.group_by, made.micro_batches, made.pairs_per_step) == ("prompt", 1, 16)
    assert "--group_by prompt: 64 pairs of 16 prompts, 4.0 each, most 4\n" in said()
    assert " times as fast as ungrouped by the cost model\n" in said()
    assert "a step: 16 pairs in 1 micro-batches on each of 2 ranks, 0.0% of them empty\n" in said()
    assert "a micro-batch: " in said() and "NOT GROUPED" not in said()
    for batch in made:
        assert len(set(np.array(made.sizes.groups)[batch])) == 2  # two whole prompts


def test_groups_that_gain_nothing_are_left_alone_with_the_reason(dataset_of, tmp_path, said):
    """As the launchers run 256 ranks: a pair for each."""
    args = config(tmp_path, group_by="prompt", per_device_train_batch_size=1)
    rows = rows_of(16, 4, image="0.png")
    ranks = [train_sampler(dataset_of(rows), args, rank, 8) for rank in range(8)]
    assert {made.group_by for made in ranks} == {"none"}
    reason = "with 1 pairs for a rank in a step few can meet without leaving other ranks idle: THIS RUN IS NOT GROUPED"
    assert reason in said()
    assert places_of(ranks) == list(range(64))
    assert all(len(batch) == 1 for made in ranks for batch in made)


def test_a_mixture_without_shared_images_says_so(dataset_of, tmp_path, said):
    args = config(tmp_path, group_by="image", per_device_train_batch_size=4)
    rows = [{**row, "question": f"{number} of <image>"} for number, row in enumerate(rows_of(16, 1))]
    assert train_sampler(dataset_of(rows), args, 0, 1).group_by == "none"
    assert "no two pairs share an image: THIS RUN IS NOT GROUPED" in said()


def test_questions_on_an_image_meet(dataset_of, tmp_path, said):
    args = config(tmp_path, group_by="image", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    made = train_sampler(dataset_of(rows_of(16, 1)), args, 0, 1)
    assert made.group_by == "image"
    assert "--group_by image: 16 pairs of 4 images, 4.0 each, most 4" in said()


def test_a_run_that_goes_on_keeps_what_it_began_with(dataset_of, tmp_path):
    dataset = dataset_of(rows_of(16, 4))
    ungainly = config(tmp_path, group_by="prompt", per_device_train_batch_size=1)
    assert train_sampler(dataset, ungainly, 0, 8, in_force="prompt").group_by == "prompt"
    gainful = config(tmp_path, group_by="prompt", per_device_train_batch_size=8)
    assert train_sampler(dataset, gainful, 0, 1, in_force="none").group_by == "none"


def test_groups_take_no_more_memory_than_the_longest_pairs_apart(dataset_of, tmp_path):
    args = config(tmp_path, group_by="prompt", per_device_train_batch_size=2, gradient_accumulation_steps=8)
    made = train_sampler(dataset_of(rows_of(4, 8)), args, 0, 1)
    longest = (made.sizes.shared_tokens + made.sizes.own_tokens).max()
    assert made.group_by == "prompt" and made.most_tokens == 2 * longest


@pytest.mark.parametrize("group_by", ["none", "prompt", "image"])
def test_micro_batches_hold_the_budget_in_every_step_and_are_the_fewest(dataset_of, tmp_path, group_by):
    dataset = dataset_of(rows_of(24, 3))
    args = config(tmp_path, group_by=group_by, tokens_per_device=300, per_device_train_batch_size=1)
    args.gradient_accumulation_steps = 12
    ranks = [train_sampler(dataset, args, rank, 2) for rank in range(2)]
    made = ranks[0]
    assert 1 <= made.micro_batches < 12 and made.pairs_per_step == 24
    assert places_of(ranks) == list(range(72))
    most = 0.0
    for epoch in range(2):
        for places in made.steps(epoch):
            step = made.sizes.take(places)
            slots = planning.slots_of(made.plan(places), places)
            most = max(most, planning.slot_tokens(step, slots, 2 * made.micro_batches).max())
    assert 100 < most <= 300
    need = [planning.slots_needed(made.sizes.take(places), 300) for epoch in range(2) for places in made.steps(epoch)]
    assert made.micro_batches == -(-max(need) // 2)


@pytest.mark.parametrize(
    ("flags", "looked_at"),
    [({"num_train_epochs": 1}, {0}), ({"num_train_epochs": 2.5}, {0, 1, 2}), ({"max_steps": 2}, {0})],
)
def test_the_epochs_to_come_are_looked_at_and_no_others(dataset_of, tmp_path, monkeypatch, flags, looked_at):
    args = config(tmp_path, per_device_train_batch_size=4, tokens_per_device=300, **flags)
    made = train_sampler(dataset_of(rows_of(16, 1)), args, 0, 1)
    seen, steps = set(), made.steps
    monkeypatch.setattr(made, "steps", lambda epoch: seen.add(epoch) or steps(epoch))
    planning.fewest_micro_batches(made, args)
    assert seen == looked_at


def test_a_pair_above_the_budget_is_counted_and_runs_alone(dataset_of, tmp_path, said):
    rows = rows_of(8, 1)
    rows[5]["chosen"] = "c" * 4000
    args = config(tmp_path, tokens_per_device=300, per_device_train_batch_size=8)
    made = train_sampler(dataset_of(rows), args, 0, 1)
    assert "1 of 8 pairs have more than --tokens_per_device 300 tokens, the longest 1," in said()
    [large] = np.flatnonzero(made.sizes.own_tokens > 300)
    assert [large] in list(made)


def test_a_larger_step_than_the_flags_accumulate_takes_more_micro_batches(dataset_of, tmp_path):
    args = config(tmp_path, tokens_per_device=200, per_device_train_batch_size=8)
    assert train_sampler(dataset_of(rows_of(16, 1)), args, 0, 1).micro_batches > 1


def test_ranks_share_the_search_for_the_fullest_step(dataset_of, tmp_path, monkeypatch):
    args = config(tmp_path, tokens_per_device=300, per_device_train_batch_size=8)
    made = train_sampler(dataset_of(rows_of(24, 1)), args, 0, 1)
    monkeypatch.setattr(planning, "gather_objects", lambda own: [own, 77])
    assert planning.fewest_micro_batches(made, args) == 77


def test_the_pairs_of_a_step_stay_those_of_the_flags(tmp_path):
    args = config(tmp_path, tokens_per_device=300, per_device_train_batch_size=2, gradient_accumulation_steps=6)
    args.take_micro_batches(4)
    assert args.gradient_accumulation_steps == 4 and pairs_per_step(args, 8) == 96
    args.take_micro_batches(5)
    assert pairs_per_step(args, 8) == 96


def test_the_older_flag_is_one_of_the_new_one(tmp_path):
    assert config(tmp_path, group_prompts=True).group_by == "prompt"
    with pytest.raises(ValueError, match="--group_prompts True is --group_by prompt"):
        config(tmp_path, group_prompts=True, group_by="image")
    with pytest.raises(ValueError, match="--group_by prompts is unknown: take none, prompt or image"):
        config(tmp_path, group_by="prompts")
    with pytest.raises(ValueError, match="--tokens_per_device -1 must be at least 0"):
        config(tmp_path, tokens_per_device=-1)


def test_facts_of_older_checkpoints_are_understood(tmp_path):
    facts = {"pairs of a step": 8, "--group_prompts": True, "--balance_ranks": False}
    now = order_facts({}, config(tmp_path, group_prompts=True), 1)
    was = facts_of(facts)
    assert all(now[name] == value for name, value in was.items() if name != "pairs of a step")
    assert groups_in_force(facts) == "prompt" and groups_in_force({"--group_prompts": False}) == "none"


def test_what_was_planned_is_written_down(dataset_of, tmp_path):
    dataset = dataset_of(rows_of(16, 4))
    args = config(tmp_path, group_by="prompt", tokens_per_device=300, gradient_accumulation_steps=8)
    made = train_sampler(dataset, args, 0, 1)
    kept = order_facts({}, args, 1) | plan_facts(made, args)
    assert groups_in_force(json.loads(json.dumps(kept))) == "prompt"
    assert kept["micro-batches of a step with 1 ranks, --tokens_per_device 300, --num_train_epochs 2"] == (
        made.micro_batches
    )
    assert plan_facts(train_sampler(dataset, config(tmp_path), 0, 1), config(tmp_path)) == {}
