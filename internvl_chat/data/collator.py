"""Samples to the batch that MMPR training code knows: chosen and rejected padded apart, tiles one after the other.

Names and shapes are those of the original; what is added are `row_ids`, `prompt_lengths`, `num_tiles` and `skipped`.
Training itself packs samples as they are (`internvl_chat.packed.packing`). This adapter is for other code; a batch of
it, or of a collator like it, can be trained on too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.records.samples import SIDES, SkippedRow


def dpo_concat_pad_data_collator(features: Sequence[Mapping[str, Any] | SkippedRow], pad_id: int = 0) -> dict[str, Any]:
    """Collate preference samples.

    In, two samples (pixels left out: the first has 2 tiles, the second, a text row, its blank one) and a skipped row:

        [{"chosen_input_ids": [5, 6, 7], "chosen_labels": [-100, 6, 7], "rejected_input_ids": [5, 8],
          "rejected_labels": [-100, 8], "image_flags": [1, 1], "row_id": "a:1", "prompt_length": 1},
         {"chosen_input_ids": [0, 9], "chosen_labels": [-100, 9], "rejected_input_ids": [0, 3, 4],
          "rejected_labels": [-100, 3, 4], "image_flags": [0], "row_id": "b:7", "prompt_length": 1},
         SkippedRow("b.jsonl", 8, "b:8", "field 'rejected' is missing")]

    Out, with pad_id 0:

        {"chosen_input_ids": [[5, 6, 7], [0, 9, 0]], "chosen_labels": [[-100, 6, 7], [-100, 9, -100]],
         "chosen_attention_mask": [[1, 1, 1], [1, 1, 0]],
         "rejected_input_ids": [[5, 8, 0], [0, 3, 4]], "rejected_labels": [[-100, 8, -100], [-100, 3, 4]],
         "rejected_attention_mask": [[1, 1, 0], [1, 1, 1]],
         "pixel_values": (3, 3, H, W), "image_flags": [1, 1, 0],
         "row_ids": ["a:1", "b:7"], "prompt_lengths": [1, 1], "num_tiles": [2, 1],
         "skipped": [SkippedRow("b.jsonl", 8, "b:8", ...)]}

    Masks come from lengths, so a real token with id pad_id is seen. Samples without `row_id` or `prompt_length`, as
    other code makes them, or without a rejected side give a batch without these keys; `skipped` is there when there is
    one, and alone where all rows were skipped. The samples are left as they are; their dtypes are kept.

    Args:
        features: samples as above, 1-D tensors and (T, 3, H, W) pixels, samples of `MixtureDataset`, which are first
            brought into this form (`join_sample`), or `SkippedRow`s.
        pad_id: fills input ids behind their end.

    Raises:
        ValueError: some samples of a batch have a rejected side and others have none.
    """
    skipped = [feature for feature in features if isinstance(feature, SkippedRow)]
    samples = [feature for feature in features if not isinstance(feature, SkippedRow)]
    rows = [join_sample(sample) if "prompt_ids" in sample else sample for sample in samples]
    batch: dict[str, Any] = {}
    if rows:
        for side in SIDES:
            batch |= _pad_side(rows, side, pad_id)
        batch |= _join_tiles(rows) | _row_facts(rows)
    return batch | ({"skipped": skipped} if skipped else {})


def join_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A `Sample` with prompt and answers joined, ids and labels (S,) of each side:

    {"prompt_ids": [5], "answers": ([6, 7], [8]), "separator": [9], ...}
    {"chosen_input_ids": [5, 6, 7, 9], "chosen_labels": [-100, 6, 7, -100],
     "rejected_input_ids": [5, 8, 9], "rejected_labels": [-100, 8, -100], "prompt_length": 1, ...}
    """
    prompt, separator = sample["prompt_ids"], sample["separator"]
    joined = {name: sample[name] for name in ("pixel_values", "image_flags", "row_id")}
    before, behind = (torch.full_like(part, IGNORE_INDEX) for part in (prompt, separator))
    for side, answer in zip(SIDES, sample["answers"], strict=False):
        joined[f"{side}_input_ids"] = torch.cat([prompt, answer, separator])
        joined[f"{side}_labels"] = torch.cat([before, answer, behind])
    return joined | {"prompt_length": len(prompt)}


def _join_tiles(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """All tiles and flags (T, ...), and how many tiles each row has (B,)."""
    return {
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
        "image_flags": torch.cat([torch.as_tensor(row["image_flags"]) for row in rows]),
        "num_tiles": torch.tensor([len(row["pixel_values"]) for row in rows]),
    }


def _row_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Row ids (B strings) and prompt lengths (B,), where the samples have them."""
    forms: dict[str, Callable[[list], Any]] = {"row_id": list, "prompt_length": torch.tensor}
    had = [name for name in forms if all(name in row for row in rows)]
    return {f"{name}s": forms[name]([row[name] for row in rows]) for name in had}


def _pad_side(rows: Sequence[Mapping[str, Any]], side: str, pad_id: int) -> dict[str, torch.Tensor]:
    """Ids, labels and mask (B, S) of one side, S its longest row; {} where no row has that side."""
    having = [row for row in rows if f"{side}_input_ids" in row]
    if len(having) not in (0, len(rows)):
        raise ValueError(f"{len(having)} of {len(rows)} samples have a {side} answer; a batch takes all or none")
    if not having:
        return {}
    ids = [torch.as_tensor(row[f"{side}_input_ids"]) for row in rows]
    labels = [torch.as_tensor(row[f"{side}_labels"]) for row in rows]
    lengths = torch.tensor([len(row) for row in ids])
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        f"{side}_input_ids": pad(ids, batch_first=True, padding_value=pad_id),
        f"{side}_labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX),
        f"{side}_attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
    }
