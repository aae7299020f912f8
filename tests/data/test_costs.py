"""Costs of rows by hand, and that ranks are loaded alike where only the sizes of images tell pairs apart."""

import json

import numpy as np
import pytest
from PIL import Image

from internvl_chat.arguments import MPOConfig
from internvl_chat.data import costs as row_costs
from internvl_chat.data.costs import place_sizes
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.order import StepSampler, train_sampler
from internvl_chat.records.rows import Source


@pytest.fixture
def dataset_of(tmp_path, tokenizer):
    """Function from rows to a data set with tiles of 28 pixels and 4 tokens, at most 6 of them."""
    Image.new("RGB", (84, 56)).save(tmp_path / "six.png")  # and a thumbnail
    Image.new("RGB", (28, 28)).save(tmp_path / "one.png")
    (tmp_path / "broken.png").write_bytes(b"no image")

    def make(rows, **meta):
        (tmp_path / "rows.jsonl").write_text(
            "".join(row if isinstance(row, str) else f"{json.dumps(row)}\n" for row in rows)
        )
        entry = {"root": str(tmp_path), "annotation": "rows.jsonl", "max_dynamic_patch": 6, **meta}
        (tmp_path / "meta.json").write_text(json.dumps({"made": entry}))
        options = {"template": "internvl2_5", "num_image_token": 4, "image_size": 28, "cache_dir": tmp_path / "cache"}
        return MixtureDataset(tmp_path / "meta.json", tokenizer, **options)

    return make


def pair(image=None, question="q" * 8, chosen="c" * 12, rejected="r" * 4):
    return {"question": question, "chosen": chosen, "rejected": rejected, **({"image": image} if image else {})}


def costs_of(dataset, group_by="prompt"):
    """[cost of what a group shares, of what a pair adds] of each row."""
    sizes = place_sizes(dataset, quiet=True).shared_by(group_by)
    order = [dataset.mixture.locate(place).row for place in range(len(dataset))]
    return dict(zip(order, zip(sizes.shared.tolist(), sizes.own.tolist(), strict=True), strict=True))


ROWS = [pair("six.png"), pair("one.png"), pair(), pair(["six.png", "one.png"]), pair("broken.png"), "no JSON\n"]


def test_costs_of_rows_by_hand(dataset_of):
    costs = costs_of(dataset_of(ROWS))
    # image tokens twice, 8 bytes of question are 2 tokens, 16 of answers are 4
    assert costs[0] == (2 * 7 * 4 + 2, 4)
    assert costs[1] == costs[2] == (2 * 1 * 4 + 2, 4)  # a row of text has a blank tile
    assert costs[3] == (2 * (2 + 1 + 1) * 4 + 2, 4)  # two images share six tiles: 2 and a thumbnail, and 1
    assert costs[4] == costs[1]
    assert costs[5] == (2 * 4, 0)
    alone = {name: value for name, value in pair().items() if name != "rejected"}  # as fine-tuning has it
    assert costs_of(dataset_of([alone]))[0] == (2 * 1 * 4 + 2, 3)


def test_pairs_of_an_image_share_it_and_not_the_question(dataset_of):
    costs = costs_of(dataset_of(ROWS), "image")
    assert costs[0] == (2 * 7 * 4, 2 + 4)
    assert costs[2] == (2 * 4 + 2, 4)  # text shares its prompt


def test_packed_tokens_have_image_tokens_once_and_the_template(dataset_of):
    dataset = dataset_of(ROWS)
    sizes = place_sizes(dataset, quiet=True).shared_by("prompt")
    order = [dataset.mixture.locate(place).row for place in range(len(dataset))]
    tokens = dict(zip(order, (sizes.shared_tokens + sizes.own_tokens).tolist(), strict=True))
    frame = tokens[5]  # nothing of the row itself
    assert tokens[0] == frame + 7 * 4 + 2 + 4
    assert tokens[2] == frame + 2 + 4  # the blank tile is in the vision tower alone
    row = dataset.rows.tokenize("a", ["a"], 0, Source("", 0))
    assert frame == row.length(0)


def test_ranks_read_a_part_each_and_copies_of_a_row_cost_the_same(dataset_of, monkeypatch):
    rows = [pair("six.png" if number % 3 else "one.png", question="q" * 4 * number) for number in range(1, 8)]
    dataset = dataset_of(rows, repeat_time=2)
    alone = place_sizes(dataset, quiet=True)
    assert alone.image.shape == (14,)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(
            row_costs, "gather_objects", lambda own: parts.append(own) or [np.zeros((4, 3)), np.zeros((3, 3))]
        )
        place_sizes(dataset, rank, 2, quiet=True)
    assert [len(part) for part in parts] == [4, 3]
    monkeypatch.setattr(row_costs, "gather_objects", lambda own: parts)
    together = place_sizes(dataset, 0, 2, quiet=True)
    for name in ("image", "prompt", "answers"):
        assert np.array_equal(getattr(together, name), getattr(alone, name))


def test_ranks_are_loaded_alike_where_only_images_differ(dataset_of):
    rows = [pair("six.png" if number % 4 == 0 else "one.png", question="q" * 4 * (number + 1)) for number in range(64)]
    sizes = place_sizes(dataset_of(rows), quiet=True).shared_by("prompt")
    costs = sizes.shared + sizes.own
    world = [list(StepSampler(sizes, pairs_per_step=16, rank=rank, world_size=4)) for rank in range(4)]
    loads = np.array([[costs[batch].sum() for batch in own] for own in world])  # (ranks, steps)
    assert (loads.mean(0) / loads.max(0)).min() > 0.95


def test_steps_are_planned_by_the_flags_of_the_run(dataset_of, tmp_path):
    dataset = dataset_of([pair() for _ in range(16)])
    args = MPOConfig(output_dir=str(tmp_path), bf16=False, group_prompts=True, per_device_train_batch_size=4)
    args.gradient_accumulation_steps, args.data_seed = 2, 7
    made = train_sampler(dataset, args, 1, 2)
    assert (made.pairs_per_step, made.micro_batches, made.rank, made.world_size) == (16, 2, 1, 2)
    assert made.shuffle and made.seed == 7 and len(set(made.sizes.groups)) == 1
    args.train_sampling_strategy = "sequential"
    assert not train_sampler(dataset, args).shuffle


def test_balance_ranks_deals_by_these_costs(dataset_of, tmp_path):
    rows = [pair("six.png" if number % 4 == 0 else "one.png") for number in range(16)]
    dataset = dataset_of(rows)
    args = MPOConfig(output_dir=str(tmp_path), bf16=False, balance_ranks=True, per_device_train_batch_size=4)
    args.gradient_accumulation_steps = 4
    slots = [*train_sampler(dataset, args)]
    large = {place for place in range(16) if dataset.mixture.locate(place).row % 4 == 0}
    assert [len(large & set(slot)) for slot in slots] == [1, 1, 1, 1]
    assert sorted(place for slot in slots for place in slot) == [*range(16)]
