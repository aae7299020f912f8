"""A collated batch becomes one packed row in which each prompt is computed once for both its answers.

    [ prompt[:-1] | last, chosen[:-1] | last, rejected[:-1] | next prompt ... ]

Position ids of every branch continue its prompt. Repeating the prompt's last token at the head of each branch gives
every position at most one label: the token that follows it. No padding, no token after the last supervised one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from internvl_chat.attention import Segment, SharedPrefixLayout, build_layout, map_tensors
from internvl_chat.collator import dpo_concat_pad_data_collator
from internvl_chat.model.constants import IGNORE_INDEX


@dataclass(frozen=True)
class PackedPairs:
    """N packed tokens of B prompts with A answers each (A = 2 for pairs, 1 for fine-tuning).

    Attributes:
        input_ids: (1, N).
        position_ids: (1, N).
        labels: (N,) the token that follows, IGNORE_INDEX inside a prompt.
        answer_ids: (N,) which of the A * B answers a position belongs to: the B chosen first, then the B rejected.
        lengths: (A * B,) supervised tokens of each answer.
        layout: who attends to whom.
        num_prompts: B.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    answer_ids: torch.Tensor
    lengths: torch.Tensor
    layout: SharedPrefixLayout
    num_prompts: int

    def to(self, *args: Any, **kwargs: Any) -> PackedPairs:
        """Like `Tensor.to`, for all tensors; accelerate and transformers call it."""
        return map_tensors(self, lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> PackedPairs:
        """Like `Tensor.pin_memory`, for all tensors; the data loader calls it."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class SplitRow:
    """One tokenized conversation: the prompt and the supervised answer after it, 1-D arrays."""

    prompt: np.ndarray
    answer: np.ndarray


def split_row(input_ids: np.ndarray, labels: np.ndarray) -> SplitRow:
    """Cut a row of (S,) ids at its first supervised token, and drop what follows the last one.

    Raises:
        ValueError: nothing is supervised, or the very first token is, or the supervised part has a gap.
    """
    supervised = np.flatnonzero(labels != IGNORE_INDEX)
    if supervised.size == 0 or supervised[0] == 0:
        raise ValueError(f"a row of {len(labels)} tokens has {supervised.size} supervised ones after its prompt")
    start, end = supervised[0], supervised[-1] + 1
    if end - start != supervised.size:
        raise ValueError(f"{supervised.size} supervised tokens lie in a span of {end - start}: one span is expected")
    return SplitRow(input_ids[:start], input_ids[start:end])


def pack(batch: Mapping[str, Any]) -> PackedPairs:
    """Pack a batch of `dpo_concat_pad_data_collator`.

    Args:
        batch: `{chosen,rejected}_{input_ids,labels}`, (B, S) each; without rejected ones, chosen answers alone.

    Raises:
        ValueError: the two prompts of a pair differ, or a row has no supervised token.
    """
    sides = [side for side in ("chosen", "rejected") if f"{side}_input_ids" in batch]
    rows = []
    for side in sides:
        ids, labels = batch[f"{side}_input_ids"].numpy(), batch[f"{side}_labels"].numpy()
        rows.append([split_row(*row) for row in zip(ids, labels, strict=True)])
    packer = _Packer(num_prompts=len(rows[0]))
    for index, answers in enumerate(zip(*rows, strict=True)):
        prompt = answers[0].prompt
        if any(not np.array_equal(prompt, other.prompt) for other in answers[1:]):
            raise ValueError(f"pair {index} of the batch: chosen and rejected do not start with the same prompt")
        packer.add(index, prompt, [row.answer for row in answers])
    return packer.finish()


class _Packer:
    """Collects the pieces of a packed row, prompt by prompt."""

    def __init__(self, num_prompts: int) -> None:
        self.num_prompts = num_prompts
        self.pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self.segments: list[Segment] = []
        self.lengths: dict[int, int] = {}
        self.size = 0

    def add(self, index: int, prompt: np.ndarray, answers: Sequence[np.ndarray]) -> None:
        """Append a prompt and the branches of its answers."""
        prefix_start, prefix_length = self.size, len(prompt) - 1
        if prefix_length:
            self.segments.append(Segment(self.size, prefix_length))
            self._append(prompt[:-1], first_position=0, labels=np.full(prefix_length, IGNORE_INDEX), answer_id=0)
        for side, answer in enumerate(answers):
            self.segments.append(Segment(self.size, len(answer), prefix_start, prefix_length))
            answer_id = side * self.num_prompts + index
            self.lengths[answer_id] = len(answer)
            branch = np.concatenate([prompt[-1:], answer[:-1]])
            self._append(branch, first_position=prefix_length, labels=answer, answer_id=answer_id)

    def _append(self, ids: np.ndarray, *, first_position: int, labels: np.ndarray, answer_id: int) -> None:
        positions = np.arange(first_position, first_position + len(ids))
        self.pieces.append((ids, positions, labels, np.full(len(ids), answer_id)))
        self.size += len(ids)

    def finish(self) -> PackedPairs:
        """The packed row."""
        columns = [np.concatenate(column).astype(np.int64) for column in zip(*self.pieces, strict=True)]
        input_ids, position_ids, labels, answer_ids = map(torch.from_numpy, columns)
        return PackedPairs(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            labels=labels,
            answer_ids=answer_ids,
            lengths=torch.tensor([self.lengths[answer_id] for answer_id in sorted(self.lengths)]),
            layout=build_layout(self.segments),
            num_prompts=self.num_prompts,
        )


def collate_packed(features: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Any]:
    """Samples to what a step needs: the contract batch of `dpo_concat_pad_data_collator`, packed.

    Returns:
        `packed`, `pixel_values`, `image_flags`, `row_ids` and `skipped`; only `skipped` where no row can be used.
    """
    batch = dpo_concat_pad_data_collator(features, pad_id)
    if "pixel_values" not in batch:
        return {"skipped": batch["skipped"]}
    kept = {name: batch[name] for name in ("pixel_values", "image_flags", "row_ids", "skipped") if name in batch}
    return {"packed": pack(batch), **kept}
