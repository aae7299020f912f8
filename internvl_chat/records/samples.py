"""What a data set gives and a collator takes: a tokenized row with its tiles, or the row that was left out and why.

Prompt and answers of a sample stay apart from tokenization to packing, and `prompt_key` says which samples share a
prompt. Only the adapter for other code joins and pads them (`internvl_chat.data.collator`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import xxhash

if TYPE_CHECKING:
    import torch

SIDES = ("chosen", "rejected")  # of a pair, in the order of its answers


class Sample(TypedDict):
    """A row that can be trained on: P prompt tokens, T tiles."""

    prompt_ids: torch.Tensor  # (P,) int64
    answers: tuple[torch.Tensor, ...]  # of SIDES, int64: ids with what the template learns around them, its end token
    separator: torch.Tensor  # int64: ids behind an answer that nobody learns, for who joins prompt and answer
    pixel_values: torch.Tensor  # (T, 3, image_size, image_size) uint8
    image_flags: torch.Tensor  # (T,) int64, 0 for the blank tile of a row without images
    prompt_key: bytes  # of `prompt_key`
    row_id: str  # "<data set>:<line>"


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out: where it stands, `row_id` ("<data set>:<line>"), why, and the kind of fault that is."""

    file: str
    line: int
    row_id: str
    reason: str
    fault: str = "unusable_row"


def prompt_key(prompt_ids: Any, tiles: Any) -> bytes:
    """16 bytes, equal where the token ids (P,) and the tiles (T, ...) of two prompts are; both NumPy arrays."""
    digest = xxhash.xxh3_128(prompt_ids.tobytes())
    digest.update(tiles.tobytes())
    return digest.digest()
