"""Judged conversations become one pack of tokens, in which whatever they begin with alike is computed once.

    [ system, image, question, step 1, .. | step 1 of another answer, .. | its step 2, .. | other question, .. ]

Conversations are a tree (`find_forks`): candidates for one question share the image and the question, and their steps
as far as they are the same. A position may thus be judged in several conversations, by unlike judgements even; it is
asked once for both words, and each judgement refers to its position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.layout import SharedPrefixLayout, build_layout, map_tensors
from internvl_chat.packed.logps import label_logps
from internvl_chat.packed.packing import TokenTree
from internvl_chat.records.samples import SkippedRow, find_forks

FEWEST_OF_TEXT = 64  # tokens that are worth a segment; the usual system message has some 200


class JudgedSample(TypedDict):
    """A conversation: P tokens up to its last judgement, T tiles, J measured steps."""

    ids: Tensor  # (P,) int64
    judged: Tensor  # (J,) int64, the positions that predict its judgements
    right: Tensor  # (J,) bool, whether a step is right
    targets: Tensor  # (J,) float32 in 0..1, the share of `+` to learn
    pixel_values: Tensor  # (T, 3, image_size, image_size) uint8
    image_flags: Tensor  # (T,) int64, 0 for the blank tile of a row without images
    row_id: str  # "<data set>:<line>"


@dataclass(frozen=True)
class PackedSteps:
    """N packed tokens of judged conversations with J judgements at U distinct positions.

    Attributes:
        input_ids: (1, N).
        position_ids: (1, N).
        words: (N, 2) ids of `+` and `-` where something is judged, IGNORE_INDEX elsewhere.
        word_positions: (U,) where that is.
        places: (J,) the position of each judgement, in the order of the samples.
        right: (J,) bool, whether a step is right.
        targets: (J,) float32 in 0..1, the share of `+` to learn.
        layout: who attends to whom.
        image_positions: (K,) where an image token stands; None where nobody said which token that is.
    """

    input_ids: Tensor
    position_ids: Tensor
    words: Tensor
    word_positions: Tensor
    places: Tensor
    right: Tensor
    targets: Tensor
    layout: SharedPrefixLayout
    image_positions: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSteps:
        """Like `Tensor.to`, for all tensors; accelerate and transformers call it."""
        return map_tensors(self, lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> PackedSteps:
        """Like `Tensor.pin_memory`, for all tensors; the data loader calls it."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


def collate_steps(
    features: Sequence[JudgedSample | SkippedRow], image_token_id: int | None, words: tuple[int, ...]
) -> dict[str, Any]:
    """Samples to what a step needs.

    Args:
        features: samples, and skipped rows.
        image_token_id: of `<IMG_CONTEXT>`.
        words: ids of `+` and `-`.

    Returns:
        `packed`; `pixel_values` (T, ...) and `image_flags` (T,) of each conversation, without what it shares with an
        earlier one, and `image_tiles`, the tiles whose flag is set. Without these where nothing is measured; a sample
        of which nothing is takes no tokens. `row_ids` and `skipped`, where there are some.
    """
    skipped = [feature for feature in features if isinstance(feature, SkippedRow)]
    rows = [feature for feature in features if not isinstance(feature, SkippedRow)]
    batch: dict[str, Any] = {"skipped": skipped} if skipped else {}
    if rows:
        batch["row_ids"] = [row["row_id"] for row in rows]
    samples = [row for row in rows if len(row["judged"])]
    if not samples:
        return batch
    told = [(sample["ids"].numpy(), sample) for sample in samples]
    forks = find_forks(told, image_token_id, fewest_of_text=FEWEST_OF_TEXT)
    tree, places = TokenTree(), []
    for (ids, sample), fork in zip(told, forks, strict=True):
        spans = tree.add(ids, fork)
        lies = np.concatenate([np.arange(start, start + length) for start, length in spans])
        places.append(torch.from_numpy(lies)[sample["judged"]])
    flags = torch.cat([sample["image_flags"][fork.tiles :] for sample, fork in zip(samples, forks, strict=True)])
    pixels = [sample["pixel_values"][fork.tiles :] for sample, fork in zip(samples, forks, strict=True)]
    return batch | {
        "packed": _pack(tree, torch.cat(places), samples, image_token_id, words),
        "pixel_values": torch.cat(pixels),
        "image_flags": flags,
        "image_tiles": flags.nonzero().squeeze(-1),
    }


def _pack(
    tree: TokenTree, places: Tensor, samples: Sequence[JudgedSample], image_token_id: int | None, words: tuple[int, ...]
) -> PackedSteps:
    """The pack of a tree, whose judgements stand at `places` (J,)."""
    input_ids, position_ids = tree.columns()
    positions = places.unique()
    asked = torch.full((len(input_ids), len(words)), IGNORE_INDEX)
    asked[positions] = torch.tensor(words)
    return PackedSteps(
        input_ids=input_ids[None],
        position_ids=position_ids[None],
        words=asked,
        word_positions=positions,
        places=places,
        right=torch.cat([sample["right"] for sample in samples]),
        targets=torch.cat([sample["targets"] for sample in samples]),
        layout=build_layout(tree.segments),
        image_positions=None if image_token_id is None else (input_ids == image_token_id).nonzero().squeeze(-1),
    )


def judgement_logps(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """log p(`+`) and log p(`-`) (J, 2) of the judgements of a batch, over the whole vocabulary, nats.

    Args:
        model: the critic, wrapped or not, switched by `use_shared_prefix`.
        batch: of `collate_steps`; `pixel_values` may be normalised already.
    """
    pack: PackedSteps = batch["packed"]
    logps = label_logps(model, batch, pack.words, pack.word_positions)
    return logps[pack.places]


def right_probability(logps: Tensor) -> Tensor:
    """p(`+`) in 0..1, (J,), of log p(`+`) and log p(`-`) (J, 2): softmax over these two words alone."""
    return (logps[..., 0] - logps[..., 1]).sigmoid()
