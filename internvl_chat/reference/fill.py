"""Filling the cache of reference log-probs: a prompt is computed once for all its answers, and no row twice.

Batches are planned from the rows' texts alone. A row that `repeat_time` repeats stands there once, pairs of one prompt
side by side, as many prompts together as training takes pairs, and a prompt beyond a limit of tokens in pieces. Ranks
take the batches in turn, so that all run as many: a sharded model runs on all ranks or on none. Batches do not depend
on what was filled before, they only lack the rows whose answers are there: a fill that was killed goes on with the very
numbers that it would have computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import count_tiles
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.data.order import prompt_groups
from internvl_chat.packed.packing import PackedPairs, idle_batch
from internvl_chat.records.samples import SkippedRow
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.frozen import FrozenReference
from internvl_chat.reference.rows import RowIndex, row_key
from internvl_chat.run.process import gather_objects

ROOM = 2  # rows of --max_seq_length in place of each of training: without gradients they need less than that one
THREADS = 16  # they wait for a file system most of the time
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class FillPlan:
    """What is to be read, over all ranks.

    Attributes:
        batches: places of the mixture, at least one each.
        prompts: different ones of the mixture.
        known: rows left out, whose answers are all in the cache.
    """

    batches: list[list[int]]
    prompts: int
    known: int

    def of_rank(self, rank: int, world_size: int) -> list[list[int]]:
        """Every `world_size`-th batch; as many on each rank, the last one may be empty."""
        mine = self.batches[rank::world_size]
        rounds = -(-len(self.batches) // world_size)
        return mine + [[]] * (rounds - len(mine))


def plan_fill(
    dataset: MixtureDataset, is_known: Callable[[np.ndarray], np.ndarray] | None = None, *, most_prompts: int = 1
) -> FillPlan:
    """The batches that fill the cache.

    Args:
        dataset: the mixture.
        is_known: tells of places which rows have their answers in the cache; None where nobody knows.
        most_prompts: of a batch; as many pairs as training takes into one, for of a prompt each they cost the same.
    """
    places = distinct_places(dataset)
    _, first, prompts = np.unique(_prompts(dataset)[places], return_index=True, return_inverse=True)
    order = np.argsort(first[prompts], kind="stable")
    places, prompts = places[order], prompts[order]
    limits = {"most": ROOM * most_prompts * dataset.max_seq_length, "most_prompts": most_prompts}
    batches = cut_batches(prompts, dataset.lengths()[places], _image_tokens(dataset)[places], **limits)
    known = is_known(places) if is_known else np.zeros(len(places), bool)
    left = [places[batch][~known[batch]].tolist() for batch in batches]
    return FillPlan([batch for batch in left if batch], len(first), int(known.sum()))


def distinct_places(dataset: MixtureDataset) -> np.ndarray:
    """A place for each row of an epoch, in the order of the files, (rows,): copies have the same answers and pictures.

    With data_augment they have not, and each has its place.
    """
    places, start = [], 0
    for data in dataset.mixture.datasets:
        first_copy = len(data.rows)
        mine = np.arange(len(data.order)) if data.spec.data_augment else np.flatnonzero(data.order < first_copy)
        places.append(start + mine[np.argsort(data.order[mine], kind="stable")])
        start += len(data.order)
    return np.concatenate(places)


def _prompts(dataset: MixtureDataset) -> np.ndarray:
    """(places,) equal where prompts are, pixels too: with data_augment no two are."""
    groups = prompt_groups(dataset.mixture)
    augmented = _per_place(dataset, lambda data: data.spec.data_augment)
    return np.where(augmented, np.arange(len(groups), dtype=groups.dtype), groups)


def _image_tokens(dataset: MixtureDataset) -> np.ndarray:
    """(places,) tokens that the images of a prompt may take: their number is not known before they are opened."""
    tiling, per_tile = dataset.tiling, dataset.rows.image.per_tile

    def most(data: MixedDataset) -> int:
        cells = data.spec.max_dynamic_patch or tiling.max_num if tiling.dynamic else 1
        return min(dataset.max_seq_length, per_tile * count_tiles((cells, 1), tiling.use_thumbnail))

    return _per_place(dataset, most)


def _per_place(dataset: MixtureDataset, value: Callable[[MixedDataset], Any]) -> np.ndarray:
    """What is said of a data set, at each of its places."""
    return np.concatenate([np.full(len(data.order), value(data)) for data in dataset.mixture.datasets])


def cut_batches(
    prompts: np.ndarray, own: np.ndarray, shared: np.ndarray, *, most: int, most_prompts: int
) -> list[slice]:
    """Rows as runs of a batch each.

    A prompt that does not fit behind others begins a batch of its own, and one beyond the limit takes several, in each
    of which it is computed anew. A row stays whole, whatever it costs.

    Args:
        prompts: (rows,) numbers from 0, rows of a prompt side by side.
        own: (rows,) tokens of the row itself.
        shared: (rows,) tokens that a prompt has once in a batch.
        most: tokens of a batch.
        most_prompts: of a batch.
    """
    whole = (np.bincount(prompts, own) + np.bincount(prompts, shared) / np.bincount(prompts))[prompts]
    is_first = np.diff(prompts, prepend=-1) != 0
    batches, start, used, held = [], 0, 0, 0
    columns = zip(is_first.tolist(), own.tolist(), shared.tolist(), whole.tolist(), strict=True)
    for row, (begins, tokens, image, of_prompt) in enumerate(columns):
        is_full = begins and held == most_prompts
        if row > start and (is_full or used + (of_prompt if begins else tokens) > most):
            batches.append(slice(start, row))
            start, used, held = row, 0, 0
        is_new = begins or row == start
        used, held = used + tokens + image * is_new, held + is_new
    return [*batches, slice(start, len(prompts))]


def known_rows(
    places: np.ndarray, dataset: MixtureDataset, index: RowIndex, cache: LogpsCache, *, rank: int, world_size: int
) -> np.ndarray:
    """Whether the answers of the rows at these places are all in the cache, (places,) bool, the same on all ranks.

    Ranks share the looking and tell each other; a collective. No image is opened.

    Args:
        places: of the mixture.
        dataset: the mixture.
        index: of the rows that were filled before.
        cache: of the reference.
        rank: of this process.
        world_size: number of processes.
    """
    mine = [int(place) for place in places[rank::world_size]]
    known = np.zeros(len(places), bool)
    for other, part in enumerate(gather_objects(_look_up(mine, dataset, index, cache))):
        known[other::world_size] = part
    return known


def _look_up(places: list[int], dataset: MixtureDataset, index: RowIndex, cache: LogpsCache) -> np.ndarray:
    if not len(index):
        return np.zeros(len(places), bool)

    def keys_of(start: int) -> list[bytes]:
        return [row_key(dataset, place) or b"" for place in places[start : start + ROWS_AT_ONCE]]

    with ThreadPoolExecutor(THREADS) as pool:
        keys = [key for part in pool.map(keys_of, range(0, len(places), ROWS_AT_ONCE)) for key in part]
    records, is_there = index.find(keys)
    answers = records["answers"]
    return is_there & ~np.isnan(cache.lookup(answers.ravel().tolist()).reshape(answers.shape)).any(axis=1)


class RowsToFill(Dataset):
    """The samples of a mixture, each with the key of its row; and how they are put together."""

    def __init__(self, dataset: MixtureDataset, collate: Callable[[list], dict[str, Any]]) -> None:
        """Take the mixture and the collator of training."""
        self.dataset, self.collator = dataset, collate

    def __getitem__(self, place: int) -> tuple[bytes | None, Any]:
        key = row_key(self.dataset, place)  # before the images are read: one that changes then has another next time
        return key, self.dataset[place]

    def collate(self, items: list[tuple[bytes | None, Any]]) -> dict[str, Any]:
        """The batch of training, with `row_keys` of the rows in it."""
        batch = self.collator([sample for _, sample in items])
        return batch | {"row_keys": [key for key, sample in items if not isinstance(sample, SkippedRow)]}


def fill_cache(
    cache: LogpsCache,
    reference: FrozenReference,
    batches: Iterable[dict[str, Any]],
    accelerator: Accelerator,
    index: RowIndex | None = None,
) -> int:
    """Compute what the cache lacks of these batches; resumable, as each batch is on disk before the next begins.

    Args:
        cache: of this reference.
        reference: the model.
        batches: packed, this rank's share; every rank has the same number of them.
        accelerator: knows the ranks and the device.
        index: is told of the rows that the batches name by `row_keys`.

    Returns:
        The number of answers that this rank computed.

    Raises:
        FloatingPointError: the reference gives a log-prob that is not finite; it is not stored.
    """
    computed = 0
    for batch in batches:
        keys = batch["packed"].answer_keys if "packed" in batch else ()
        missing = np.isnan(cache.lookup(keys))
        # A sharded model runs on all ranks or on none.
        if any_rank(bool(missing.any()), accelerator):
            logps = _compute(reference, batch, accelerator)
            fresh = {key: logp for key, logp, lacks in zip(keys, logps, missing, strict=False) if lacks}
            if fresh:
                cache.append(list(fresh), list(fresh.values()), batch.get("row_ids", ()))
            computed += len(fresh)
        if index is not None and "packed" in batch:
            index.append(_answers_of_rows(batch["packed"], batch["row_keys"]))
    _merge([cache] if index is None else [cache, index], accelerator)
    return computed


def _compute(reference: FrozenReference, batch: dict[str, Any], accelerator: Accelerator) -> list[float]:
    """Log-probs of the answers of a batch; a rank without rows runs along."""
    runnable = batch if "packed" in batch else idle_batch(reference.unwrapped, accelerator.device)
    moved = {name: value.to(accelerator.device) if hasattr(value, "to") else value for name, value in runnable.items()}
    return reference.answer_logps(moved).tolist()


def _answers_of_rows(pack: PackedPairs, row_keys: Sequence[bytes | None]) -> dict[bytes, list[bytes]]:
    """The keys of the answers of each row that has a key."""
    by_row = zip(row_keys, pack.pair_answers.T.tolist(), strict=True)
    return {key: [pack.answer_keys[number] for number in numbers] for key, numbers in by_row if key is not None}


def _merge(stores: Sequence[LogpsCache | RowIndex], accelerator: Accelerator) -> None:
    """Put together what all ranks have written; a collective."""
    for store in stores:
        store.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for store in stores:
            store.merge()
    accelerator.wait_for_everyone()
    for store in stores:
        store.reload()


def any_rank(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set on any rank; a collective."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum"))
