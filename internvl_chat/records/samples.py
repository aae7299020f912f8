"""What a data set gives and a collator takes: a tokenized row with its tiles, or the row that was left out and why.

Prompt and answers of a sample stay apart from tokenization to packing, and `prompt_key` says which samples share a
prompt. Only the adapter for other code joins and pads them (`internvl_chat.data.collator`).

`find_forks` says which prompts begin with the same pictures, so that a pack holds that beginning once. Questions about
one image share the system message, the image and its tokens, and what they have in common behind it, such as earlier
turns. Prompts are alike as far as their tokens and tiles are; a beginning without a picture is too short to be worth a
segment of its own, unless a caller says otherwise. So the prompts of an image are a tree, each of whose tokens runs
once: no other layout has fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
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


@dataclass(frozen=True)
class Fork:
    """Where a prompt leaves an earlier one: `length` tokens, and `tiles` tiles, are those of prompt number `parent`."""

    parent: int = 0
    length: int = 0
    tiles: int = 0


def find_forks(
    prompts: Sequence[tuple[np.ndarray, Mapping[str, Any]]],
    image_token_id: int | None = None,
    *,
    fewest_of_text: int | None = None,
) -> list[Fork]:
    """For each prompt, the earlier one that it has most in common with; its last token is never shared.

    Args:
        prompts: token ids (P,) of each, and a sample with its `pixel_values` (T, ...) and `image_flags` (T,).
        image_token_id: of `<IMG_CONTEXT>`; None where nobody said which token that is: then nothing is shared.
        fewest_of_text: tokens of a beginning without a picture that are worth a segment; None: none are.
    """
    if image_token_id is None or len(prompts) < 2:
        return [Fork()] * len(prompts)
    tiles = [_tiles_of_images(sample) for _, sample in prompts]
    told = [content_ids(ids, own, image_token_id)[:-1] for (ids, _), own in zip(prompts, tiles, strict=True)]
    least = np.inf if fewest_of_text is None else fewest_of_text
    return [_longest(told[:number], own, len(tiles[number]), least) for number, own in enumerate(told)]


def _tiles_of_images(sample: Mapping[str, Any]) -> np.ndarray:
    """The tiles of a sample; none where there is a blank one among them, as a row without images has."""
    tiles = sample["pixel_values"].numpy()
    return tiles if np.asarray(sample["image_flags"]).all() else tiles[:0]


def content_ids(prompt: np.ndarray, tiles: np.ndarray, image_token_id: int) -> np.ndarray:
    """(P,) int64: the ids of text, and in place of image tokens numbers below 0, equal where tiles are.

    63 bits of its hash stand for a tile. Where tiles and image tokens do not fit together, as in batches of collators
    that do not say whose tiles are whose, the prompt comes back as it is: with no picture that another one could have.
    """
    positions = np.flatnonzero(prompt == image_token_id)
    if not len(tiles) or len(positions) % len(tiles):
        return prompt
    told = prompt.astype(np.int64)
    marks = [-1 - (xxhash.xxh3_64_intdigest(tile.tobytes()) >> 1) for tile in tiles]
    told[positions] = np.repeat(np.array(marks, np.int64), len(positions) // len(tiles))
    return told


def _longest(earlier: Sequence[np.ndarray], own: np.ndarray, num_tiles: int, least: float) -> Fork:
    """The fork with the most tokens, a picture or enough text among them; one of no tokens where there is none."""
    is_image = own < 0
    best = Fork()
    for parent, other in enumerate(earlier):
        length = _shared_length(other, own)
        shared = int(is_image[:length].sum())
        if length > best.length and (shared or length >= least):
            best = Fork(parent, length, shared * num_tiles // max(1, int(is_image.sum())))
    return best


def _shared_length(one: np.ndarray, other: np.ndarray) -> int:
    """How many ids two prompts have in common from their beginning on."""
    shortest = min(len(one), len(other))
    differ = one[:shortest] != other[:shortest]
    return int(differ.argmax()) if differ.any() else shortest
