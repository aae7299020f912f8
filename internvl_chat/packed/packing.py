"""The pairs of a micro-batch become one pack of tokens, in which each prompt is computed once for all its answers.

    [ prompt[:-1] | last, chosen[:-1] | last, rejected[:-1] | next prompt ... ]

Position ids of every branch continue its prompt. Repeating the prompt's last token at the head of each branch gives
every position at most one label: the token that follows it. No padding, no token after the last supervised one. Pairs
that share prompt and images share the prefix too, and an answer that several of them name runs once. Of another
question about the same image only what is its own follows, with its answers behind it (`find_forks`):

    [ image, question[:-1] | last, chosen[:-1] | ... | other question[:-1] | last, chosen[:-1] | ... ]

What the forward pass would otherwise have to ask the GPU for, which positions hold images and which have labels, is
noted here, on the CPU: every such question makes the host wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

from internvl_chat.model import InternVLChatModel
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.layout import Segment, SharedPrefixLayout, Span, build_layout, cut_spans, map_tensors
from internvl_chat.records.samples import SIDES, Fork, SkippedRow, find_forks, prompt_key


@dataclass(frozen=True)
class PackedPairs:
    """N packed tokens of B pairs with A distinct answers.

    Attributes:
        input_ids: (1, N).
        position_ids: (1, N).
        labels: (N,) the token that follows, IGNORE_INDEX inside a prompt.
        label_positions: (L,) where there is a label.
        answer_ids: (N,) which of the A answers a position belongs to; 0 inside a prompt, where it does not count.
        lengths: (A,) supervised tokens of each answer.
        pair_answers: (2, B) the answers of each pair, chosen then rejected; (1, B) in fine-tuning.
        answer_keys: A keys of 16 bytes, equal where prompt, images and answer are.
        layout: who attends to whom.
        image_positions: (K,) where an image token stands; None where nobody said which token that is.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    label_positions: torch.Tensor
    answer_ids: torch.Tensor
    lengths: torch.Tensor
    pair_answers: torch.Tensor
    answer_keys: tuple[bytes, ...]
    layout: SharedPrefixLayout
    image_positions: torch.Tensor | None = None

    @property
    def has_rejected(self) -> bool:
        """Whether pairs have a rejected answer; in fine-tuning they have none."""
        return len(self.pair_answers) == len(SIDES)

    def to(self, *args: Any, **kwargs: Any) -> PackedPairs:
        """Like `Tensor.to`, for all tensors; accelerate and transformers call it."""
        return map_tensors(self, lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> PackedPairs:
        """Like `Tensor.pin_memory`, for all tensors; the data loader calls it."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class TokenizedPair:
    """The prompt (P,) of a pair and its answers, chosen then rejected, 1-D int64 arrays of token ids.

    Pairs with equal `prompt_key` have the same prompt and images.
    """

    prompt: np.ndarray
    answers: tuple[np.ndarray, ...]
    prompt_key: bytes

    @property
    def answer_keys(self) -> list[bytes]:
        """16 bytes for each answer, equal where prompt, images and answer are."""
        return [xxhash.xxh3_128_digest(self.prompt_key + answer.tobytes()) for answer in self.answers]


def pack_pairs(
    pairs: Sequence[TokenizedPair], image_token_id: int | None = None, forks: Sequence[Fork] | None = None
) -> PackedPairs:
    """Lay pairs out: each distinct prompt once, in order of appearance, with its distinct answers.

    Args:
        pairs: of a micro-batch.
        image_token_id: of `<IMG_CONTEXT>`.
        forks: of the distinct prompts; None where each of them stands alone.
    """
    prompts: dict[bytes, np.ndarray] = {}
    answers: dict[bytes, dict[bytes, np.ndarray]] = {}
    for pair in pairs:
        prompts.setdefault(pair.prompt_key, pair.prompt)
        answers.setdefault(pair.prompt_key, {}).update(zip(pair.answer_keys, pair.answers, strict=True))
    pack = _Pack()
    for (key, prompt), fork in zip(prompts.items(), forks or [Fork()] * len(prompts), strict=True):
        pack.add_prompt(prompt, answers[key], fork)
    return pack.finish([pair.answer_keys for pair in pairs], image_token_id)


class TokenTree:
    """Packed tokens in the making: sequences, of each only what it does not share with an earlier one."""

    def __init__(self) -> None:
        """Nothing is packed yet."""
        self.pieces: list[tuple[np.ndarray, np.ndarray]] = []  # token ids, positions
        self.segments: list[Segment] = []
        self.paths: list[tuple[Span, ...]] = []  # where each sequence lies
        self.size = 0

    def add(self, ids: np.ndarray, fork: Fork) -> tuple[Span, ...]:
        """Append the sequence that leaves an earlier one at `fork`; returns where it lies."""
        path = cut_spans(self.paths[fork.parent], 0, fork.length) if fork.length else ()
        own = ids[fork.length :]
        if len(own):
            path = (*path, self.append(own, path))
        self.paths.append(path)
        return path

    def append(self, ids: np.ndarray, path: Sequence[Span]) -> Span:
        """Append a segment with what lies before it in its row; returns where it lies."""
        segment = Segment.behind(path, self.size, len(ids))
        self.segments.append(segment)
        self.pieces.append((ids, np.arange(segment.before, segment.num_keys)))
        self.size += len(ids)
        return segment.start, segment.length

    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) token ids and positions."""
        ids, positions = (np.concatenate(column).astype(np.int64) for column in zip(*self.pieces, strict=True))
        return torch.from_numpy(ids), torch.from_numpy(positions)


class _Pack(TokenTree):
    """Prompts and the branches of their answers."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[np.ndarray, np.ndarray]] = []  # labels, answer ids
        self.answer_ids: dict[bytes, int] = {}
        self.lengths: list[int] = []

    def add_prompt(self, prompt: np.ndarray, answers: Mapping[bytes, np.ndarray], fork: Fork) -> None:
        """Append what a prompt does not share with an earlier one, and a branch for each of its answers."""
        before = self.size
        path = self.add(prompt[:-1], fork)
        own = self.size - before
        self.marks.append((np.full(own, IGNORE_INDEX), np.zeros(own, np.int64)))
        for key, answer in answers.items():
            self.answer_ids[key] = len(self.lengths)
            self.lengths.append(len(answer))
            self.append(np.concatenate([prompt[-1:], answer[:-1]]), path)
            self.marks.append((answer, np.full(len(answer), self.answer_ids[key])))

    def finish(self, pairs: Sequence[Sequence[bytes]], image_token_id: int | None) -> PackedPairs:
        """The pack, for pairs that name their answers by key."""
        input_ids, position_ids = self.columns()
        marks = (np.concatenate(column).astype(np.int64) for column in zip(*self.marks, strict=True))
        labels, answer_ids = map(torch.from_numpy, marks)
        numbers = [[self.answer_ids[key] for key in keys] for keys in pairs]
        return PackedPairs(
            input_ids=input_ids[None],
            position_ids=position_ids[None],
            labels=labels,
            label_positions=(labels != IGNORE_INDEX).nonzero().squeeze(-1),
            answer_ids=answer_ids,
            lengths=torch.tensor(self.lengths),
            pair_answers=torch.tensor(numbers).T.contiguous(),
            answer_keys=tuple(self.answer_ids),
            layout=build_layout(self.segments),
            image_positions=None if image_token_id is None else (input_ids == image_token_id).nonzero().squeeze(-1),
        )


def collate_packed(
    features: Sequence[Mapping[str, Any] | SkippedRow], image_token_id: int | None = None
) -> dict[str, Any]:
    """Samples to what a step needs.

    Args:
        features: samples of `MixtureDataset`, or such as `dpo_concat_pad_data_collator` takes; skipped rows.
        image_token_id: of `<IMG_CONTEXT>`.

    Returns:
        `packed`; `pixel_values` (T, ...) and `image_flags` (T,) of each distinct prompt, without what it shares with
        an earlier one, and `image_tiles`, the tiles whose flag is set; `row_ids` where the samples have them;
        `skipped` where there are some. Only that, or nothing, where no row can be used.

    Raises:
        ValueError: as `tokenized_pair`.
    """
    skipped = [feature for feature in features if isinstance(feature, SkippedRow)]
    samples = [feature for feature in features if not isinstance(feature, SkippedRow)]
    batch: dict[str, Any] = {"skipped": skipped} if skipped else {}
    if not samples:
        return batch
    pairs = [tokenized_pair(sample, number) for number, sample in enumerate(samples)]
    prompts: dict[bytes, tuple[np.ndarray, Mapping[str, Any]]] = {}
    for pair, sample in zip(pairs, samples, strict=True):
        prompts.setdefault(pair.prompt_key, (pair.prompt, sample))
    forks = find_forks([*prompts.values()], image_token_id)
    own = [(sample, fork.tiles) for (_, sample), fork in zip(prompts.values(), forks, strict=True)]
    flags = torch.cat([torch.as_tensor(sample["image_flags"])[shared:] for sample, shared in own])
    if all("row_id" in sample for sample in samples):
        batch["row_ids"] = [sample["row_id"] for sample in samples]
    return batch | {
        "packed": pack_pairs(pairs, image_token_id, forks),
        "pixel_values": torch.cat([sample["pixel_values"][shared:] for sample, shared in own]),
        "image_flags": flags,
        "image_tiles": flags.flatten().nonzero().squeeze(-1),
    }


def tokenized_pair(sample: Mapping[str, Any], number: int = 0) -> TokenizedPair:
    """The pair of a sample: as it is, or found again in joined ids and labels (see `dpo_concat_pad_data_collator`).

    Raises:
        ValueError: the two prompts of joined ids differ, or `split_ids` refuses them; names the pair by its `number`.
    """
    if "prompt_ids" in sample:
        answers = tuple(ids.numpy() for ids in sample["answers"])
        return TokenizedPair(sample["prompt_ids"].numpy(), answers, sample["prompt_key"])
    sides = [side for side in SIDES if f"{side}_input_ids" in sample]
    columns = [(np.asarray(sample[f"{side}_input_ids"]), np.asarray(sample[f"{side}_labels"])) for side in sides]
    (prompt, *others), answers = zip(*(split_ids(ids, labels) for ids, labels in columns), strict=True)
    if any(not np.array_equal(prompt, other) for other in others):
        raise ValueError(f"pair {number} of the batch: chosen and rejected do not start with the same prompt")
    tiles = sample["pixel_values"].numpy()
    return TokenizedPair(prompt, answers, sample.get("prompt_key") or prompt_key(prompt, tiles))


def split_ids(input_ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and supervised answer of (S,) joined ids; what follows the last supervised token is dropped.

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


def pack_batch(batch: Mapping[str, Any], image_token_id: int | None = None) -> dict[str, Any]:
    """Pack a batch of `dpo_concat_pad_data_collator`, on the CPU; results and errors as of `collate_packed`."""
    packed = collate_packed(list(_samples_of(batch)), image_token_id)
    return packed | {name: batch[name] for name in ("row_ids", "skipped") if name in batch}


def _samples_of(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The padded samples of a batch, each with its tiles.

    Where other code does not say whose tiles are whose, the first sample has all of them, and no two samples count as
    of one prompt.
    """
    names = [f"{side}_{part}" for side in SIDES for part in ("input_ids", "labels") if f"{side}_{part}" in batch]
    size, pixels, flags = len(batch["chosen_input_ids"]), batch["pixel_values"], batch["image_flags"]
    counts = batch["num_tiles"].tolist() if "num_tiles" in batch else [len(pixels)] + [0] * (size - 1)
    parts = zip(pixels.split(counts), flags.split(counts), strict=True)
    for number, (tiles, own_flags) in enumerate(parts):
        sample = {name: batch[name][number] for name in names} | {"pixel_values": tiles, "image_flags": own_flags}
        if "num_tiles" not in batch:
            prompt = np.append(sample["chosen_input_ids"].numpy(), number)
            sample["prompt_key"] = prompt_key(prompt, pixels.numpy())
        yield sample


def with_packed(batch: dict[str, Any], image_token_id: int | None) -> dict[str, Any]:
    """The batch with `packed`: as the collator made it, or made here of a batch that was only padded."""
    if "packed" in batch:
        return batch
    device = batch["pixel_values"].device
    on_cpu = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    packed = pack_batch(on_cpu, image_token_id)
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in packed.items()}


def idle_batch(model: InternVLChatModel, device: torch.device) -> dict[str, Any]:
    """The smallest batch that runs every module, for a rank without a usable row: a blank tile, a supervised token."""
    size = model.config.force_image_size or model.config.vision_config.image_size
    tokens = [model.img_context_token_id] * model.num_image_token + [0, 0]
    batch = {
        "chosen_input_ids": torch.tensor([tokens]),
        "chosen_labels": torch.tensor([[IGNORE_INDEX] * (len(tokens) - 1) + [0]]),
        "pixel_values": torch.zeros(1, 3, size, size, dtype=torch.uint8),
        "image_flags": torch.ones(1, dtype=torch.long),
    }
    packed = pack_batch(batch, model.img_context_token_id)
    return {name: value.to(device) for name, value in packed.items()}
