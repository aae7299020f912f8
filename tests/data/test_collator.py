"""Batches: the golden ones, the example of the docstring, input left alone, skipped rows passed on."""

import ast
import copy

import numpy as np
import pytest
import torch

from internvl_chat.data.collator import dpo_concat_pad_data_collator
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.records.samples import SkippedRow

KEYS = ("input_ids", "labels", "attention_mask")


def sample(chosen, rejected, prompt, flags, row_id):
    """A sample whose labels cover all ids after the first `prompt`."""
    made = {"pixel_values": torch.zeros(len(flags), 3, 2, 2, dtype=torch.uint8), "image_flags": torch.tensor(flags)}
    for side, ids in (("chosen", chosen), ("rejected", rejected)):
        made[f"{side}_input_ids"] = torch.tensor(ids)
        made[f"{side}_labels"] = torch.tensor([-100] * prompt + ids[prompt:])
    return {**made, "row_id": row_id, "prompt_length": prompt}


ROWS = [sample([5, 6, 7], [5, 8], 1, [1, 1], "a:1"), sample([0, 9], [0, 3, 4], 1, [0], "b:7")]
SKIPPED = SkippedRow("b.jsonl", 8, "b:8", "field 'rejected' is missing")


def blocks():
    """The input and the output that the collator's docstring shows, as Python values; pixels and skips left out."""
    text = dpo_concat_pad_data_collator.__doc__
    given, made = text.split("In, two samples")[1].split("Out, with pad_id 0:")
    given = given[given.index("[{") : given.index("]\n\n") + 1].replace('SkippedRow("b.jsonl", 8, "b:8", ', "(")
    made = made[made.index("{") : made.index("}") + 1].replace("(3, 3, H, W)", "None")
    return ast.literal_eval(given), ast.literal_eval(made.replace('SkippedRow("b.jsonl", 8, "b:8", ...)', "None"))


def test_the_example_of_the_docstring():
    given, made = blocks()
    for row, shown in zip(ROWS, given[:2], strict=True):
        assert {key: torch.as_tensor(row[key]).tolist() for key in shown if key != "row_id"} == {
            key: value for key, value in shown.items() if key != "row_id"
        }
    batch = dpo_concat_pad_data_collator([*ROWS, SKIPPED], pad_id=0)
    assert batch.keys() == made.keys()
    assert batch["pixel_values"].shape == (3, 3, 2, 2) and batch["pixel_values"].dtype == torch.uint8
    assert batch["skipped"] == [SKIPPED] and batch["row_ids"] == made["row_ids"]
    assert batch["chosen_attention_mask"].dtype == torch.int64  # as transformers' tokenizers give it
    for key in set(made) - {"pixel_values", "skipped", "row_ids"}:
        assert batch[key].tolist() == made[key], key


def test_golden_batches(golden, golden_folder, tokenizer, tmp_path):
    """Multi-image rows of the golden batches are padded to 512, a defect of the original: compared up to their end."""
    dataset = MixtureDataset(
        golden_folder / "data/meta.json",
        tokenizer,
        template="internvl2_5",
        num_image_token=4,
        image_size=56,
        max_seq_length=512,
        cache_dir=tmp_path,
    )
    samples = {dataset[place]["row_id"]: dataset[place] for place in range(len(dataset))}
    names = {"en": "mmpr_en_mix", "zh": "mmpr_zh_multi"}
    for name, figures in golden.loss["batches"].items():
        rows = [samples[f"{names[row_id[:2]]}:{int(row_id[3:]) + 1}"] for row_id in figures["ids"]]
        batch, expected = dpo_concat_pad_data_collator(rows), golden.batch(name)
        assert batch["num_tiles"].sum() == len(expected["pixel_values"])
        assert batch["image_flags"].tolist() == expected["image_flags"].tolist()
        for side in ("chosen", "rejected"):
            width = batch[f"{side}_input_ids"].shape[1]
            mask = batch[f"{side}_attention_mask"].bool().numpy()
            for key in KEYS[:2]:
                ours, theirs = batch[f"{side}_{key}"].numpy(), expected[f"{side}_{key}"][:, :width]
                np.testing.assert_array_equal(ours[mask], theirs[mask])
            assert (expected[f"{side}_labels"][:, width:] == -100).all()
            assert (batch[f"{side}_labels"].numpy() == expected[f"{side}_labels"][:, :width]).all()


def test_id_zero_is_a_token_and_padding_is_not():
    batch = dpo_concat_pad_data_collator(
        [sample([1, 0, 0], [1, 0], 1, [1], "a:1"), sample([1, 2, 3, 4], [1, 0, 0], 1, [1], "a:2")]
    )
    assert batch["chosen_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["rejected_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_pad_id():
    batch = dpo_concat_pad_data_collator(ROWS, pad_id=77)
    assert batch["chosen_input_ids"][1].tolist() == [0, 9, 77]
    assert batch["chosen_labels"][1].tolist() == [-100, 9, -100]


def test_input_is_left_alone():
    rows = copy.deepcopy(ROWS)
    batch = dpo_concat_pad_data_collator(rows)
    batch["chosen_input_ids"].fill_(0)
    batch["pixel_values"].fill_(9)
    for row, before in zip(rows, ROWS, strict=True):
        assert row.keys() == before.keys()
        assert all(torch.equal(torch.as_tensor(row[k]), torch.as_tensor(before[k])) for k in row if k != "row_id")


def test_plain_features_of_other_code():
    rows = [{key: value for key, value in row.items() if key not in ("row_id", "prompt_length")} for row in ROWS]
    rows = [
        {**row, "pixel_values": row["pixel_values"].float(), "image_flags": row["image_flags"].tolist()} for row in rows
    ]
    batch = dpo_concat_pad_data_collator(rows)
    assert set(batch) == {f"{side}_{key}" for side in ("chosen", "rejected") for key in KEYS} | {
        "pixel_values",
        "image_flags",
        "num_tiles",
    }
    assert batch["pixel_values"].dtype == torch.float32 and batch["image_flags"].tolist() == [1, 1, 0]


@pytest.mark.parametrize(("fact", "key"), [("row_id", "row_ids"), ("prompt_length", "prompt_lengths")])
def test_a_fact_that_one_sample_lacks_is_told_of_none(fact, key):
    """A list shorter than the batch would name the wrong rows."""
    foreign = {name: value for name, value in ROWS[0].items() if name != fact}
    assert key not in dpo_concat_pad_data_collator([foreign, ROWS[1]])


def test_fine_tuning_rows_have_one_side():
    rows = [{key: value for key, value in row.items() if not key.startswith("rejected")} for row in ROWS]
    batch = dpo_concat_pad_data_collator(rows)
    assert "chosen_labels" in batch and not [key for key in batch if key.startswith("rejected")]
    with pytest.raises(ValueError, match="1 of 2 samples have a rejected answer"):
        dpo_concat_pad_data_collator([rows[0], ROWS[1]])


def test_only_skipped_rows():
    assert dpo_concat_pad_data_collator([SKIPPED, SKIPPED]) == {"skipped": [SKIPPED, SKIPPED]}
    assert "skipped" not in dpo_concat_pad_data_collator(ROWS)
