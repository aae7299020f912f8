"""A collated batch becomes one packed row in which each prompt is computed once for all its answers.

    [ prompt[:-1] | last, chosen[:-1] | last, rejected[:-1] | next prompt ... ]

Position ids of every branch continue its prompt. Repeating the prompt's last token at the head of each branch gives
every position at most one label: the token that follows it. No padding, no token after the last supervised one. Pairs
of a batch that share prompt and images share the prefix too, and an answer that several of them name runs once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

from internvl_chat.data.collator import SIDES, dpo_concat_pad_data_collator
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.attention import SharedPrefixLayout, build_layout
from internvl_chat.packed.segments import Segment, map_tensors


@dataclass(frozen=True)
class PackedPairs:
    """N packed tokens of B pairs with A distinct answers.

    Attributes:
        input_ids: (1, N).
        position_ids: (1, N).
        labels: (N,) the token that follows, IGNORE_INDEX inside a prompt.
        answer_ids: (N,) which of the A answers a position belongs to; 0 inside a prompt, where it does not count.
        lengths: (A,) supervised tokens of each answer.
        pair_answers: (2, B) the answers of each pair, chosen then rejected; (1, B) in fine-tuning.
        answer_keys: A keys of 16 bytes, equal where prompt, images and answer are.
        layout: who attends to whom.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    answer_ids: torch.Tensor
    lengths: torch.Tensor
    pair_answers: torch.Tensor
    answer_keys: tuple[bytes, ...]
    layout: SharedPrefixLayout

    def to(self, *args: Any, **kwargs: Any) -> PackedPairs:
        """Like `Tensor.to`, for all tensors; accelerate and transformers call it."""
        return map_tensors(self, lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> PackedPairs:
        """Like `Tensor.pin_memory`, for all tensors; the data loader calls it."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class PairRow:
    """One tokenized pair: the prompt (S,) and its answers, chosen then rejected, 1-D arrays of token ids.

    Rows with equal `prompt_key` have the same prompt and images.
    """

    prompt: np.ndarray
    answers: tuple[np.ndarray, ...]
    prompt_key: bytes


def split_row(input_ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and supervised answer of one row of (S,) ids; what follows the last supervised token is dropped.

    Raises:
        ValueError: nothing is supervised, or the very first token is, or the supervised part has a gap.
    """
    supervised = np.flatnonzero(labels != IGNORE_INDEX)
    if supervised.size == 0 or supervised[0] == 0:
        raise ValueError(f"a row of {len(labels)} tokens has {supervised.size} supervised ones after its prompt")
    start, end = supervised[0], supervised[-1] + 1
    if end - start != supervised.size:
        raise ValueError(f"{supervised.size} supervised tokens lie in a span of {end - start}: one span is expected")
    return input_ids[:start], input_ids[start:end]


def pair_rows(batch: Mapping[str, Any]) -> list[PairRow]:
    """The pairs of a batch of `dpo_concat_pad_data_collator`, without their padding.

    Raises:
        ValueError: the two prompts of a pair differ, or `split_row` refuses a row.
    """
    sides = [side for side in SIDES if f"{side}_input_ids" in batch]
    tiles = _tiles_of_rows(batch)
    rows = []
    for index in range(len(batch["chosen_input_ids"])):
        split = [split_row(batch[f"{s}_input_ids"][index].numpy(), batch[f"{s}_labels"][index].numpy()) for s in sides]
        prompt = split[0][0]
        if any(not np.array_equal(prompt, other) for other, _ in split[1:]):
            raise ValueError(f"pair {index} of the batch: chosen and rejected do not start with the same prompt")
        digest = xxhash.xxh3_128(prompt.tobytes())
        # Who does not say whose tiles are whose gets every row taken for a prompt of its own.
        digest.update(str(index).encode() if tiles is None else tiles[index].numpy().tobytes())
        rows.append(PairRow(prompt, tuple(answer for _, answer in split), digest.digest()))
    return rows


def _tiles_of_rows(batch: Mapping[str, Any]) -> tuple[torch.Tensor, ...] | None:
    return batch["pixel_values"].split(batch["num_tiles"].tolist()) if "num_tiles" in batch else None


def pack_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Pack a batch of `dpo_concat_pad_data_collator`, on the CPU.

    Returns:
        `packed`, `pixel_values` and `image_flags` of each distinct prompt once, `row_ids` and `skipped` as they were.

    Raises:
        ValueError: as `pair_rows`.
    """
    rows = pair_rows(batch)
    first_rows: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        first_rows.setdefault(row.prompt_key, index)
    pixels, flags = batch["pixel_values"], batch["image_flags"]
    if len(first_rows) < len(rows):
        counts = batch["num_tiles"].tolist()
        pixels = torch.cat([pixels.split(counts)[row] for row in first_rows.values()])
        flags = torch.cat([flags.split(counts)[row] for row in first_rows.values()])
    kept = {name: batch[name] for name in ("row_ids", "skipped") if name in batch}
    return {"packed": pack_rows(rows), "pixel_values": pixels, "image_flags": flags, **kept}


def pack_rows(rows: Sequence[PairRow]) -> PackedPairs:
    """Lay pairs out in one row: each distinct prompt once, in order of appearance, with its distinct answers."""
    prompts: dict[bytes, np.ndarray] = {}
    answers: dict[bytes, dict[bytes, np.ndarray]] = {}
    for row in rows:
        prompts.setdefault(row.prompt_key, row.prompt)
        answers.setdefault(row.prompt_key, {}).update({_answer_key(row, answer): answer for answer in row.answers})
    layout = _Layout()
    for key, prompt in prompts.items():
        layout.add(prompt, answers[key])
    return layout.finish([[_answer_key(row, answer) for answer in row.answers] for row in rows])


def _answer_key(row: PairRow, answer: np.ndarray) -> bytes:
    return xxhash.xxh3_128_digest(row.prompt_key + answer.tobytes())


class _Layout:
    """A packed row in the making."""

    def __init__(self) -> None:
        self.pieces: list[tuple[np.ndarray, ...]] = []  # token ids, positions, labels, answer ids
        self.segments: list[Segment] = []
        self.answer_ids: dict[bytes, int] = {}
        self.lengths: list[int] = []
        self.size = 0

    def add(self, prompt: np.ndarray, answers: Mapping[bytes, np.ndarray]) -> None:
        """Append a prompt and a branch for each of its answers."""
        start, length = self.size, len(prompt) - 1
        if length:
            self.segments.append(Segment(start, length))
            self._append(prompt[:-1], first_position=0, labels=np.full(length, IGNORE_INDEX), answer_id=0)
        for key, answer in answers.items():
            self.segments.append(Segment(self.size, len(answer), start, length))
            self.answer_ids[key] = len(self.lengths)
            self.lengths.append(len(answer))
            branch = np.concatenate([prompt[-1:], answer[:-1]])
            self._append(branch, first_position=length, labels=answer, answer_id=self.answer_ids[key])

    def _append(self, ids: np.ndarray, *, first_position: int, labels: np.ndarray, answer_id: int) -> None:
        positions = np.arange(first_position, first_position + len(ids))
        self.pieces.append((ids, positions, labels, np.full(len(ids), answer_id)))
        self.size += len(ids)

    def finish(self, pairs: Sequence[Sequence[bytes]]) -> PackedPairs:
        """The packed row, for pairs that name their answers by key."""
        columns = [np.concatenate(column).astype(np.int64) for column in zip(*self.pieces, strict=True)]
        input_ids, position_ids, labels, answer_ids = map(torch.from_numpy, columns)
        numbers = [[self.answer_ids[key] for key in keys] for keys in pairs]
        return PackedPairs(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            labels=labels,
            answer_ids=answer_ids,
            lengths=torch.tensor(self.lengths),
            pair_answers=torch.tensor(numbers).T.contiguous(),
            answer_keys=tuple(self.answer_ids),
            layout=build_layout(self.segments),
        )


def collate_packed(features: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Any]:
    """Samples to what a step needs: the contract batch of `dpo_concat_pad_data_collator`, packed.

    Returns:
        as `pack_batch`; only `skipped`, or nothing, where no row can be used.
    """
    batch = dpo_concat_pad_data_collator(features, pad_id)
    return pack_batch(batch) if "pixel_values" in batch else batch
