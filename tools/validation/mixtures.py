"""What can be said of data sets as a whole: meta.json itself, and rows that repeat or contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internvl_chat.data.mixture import MixedDataset, doubtful_paths, open_dataset
from internvl_chat.records.jsonl import WrongFileError
from internvl_chat.records.judged import is_judged
from internvl_chat.records.meta import DatasetSpec, read_entries
from internvl_chat.records.objects import ObjectError
from internvl_chat.records.rows import RecordError, parse_row, shown
from tools.validation.faults import FoundFault

LEAST_PAIRS, MOST_LONGER = 100, 0.9
"""From that many pairs on, a share of longer (or shorter) chosen answers above this is named."""


def open_mixture(meta_path: Path) -> tuple[list[MixedDataset], list[FoundFault]]:
    """The data sets of a meta.json that can be opened, and what is wrong with its entries.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        entries = read_entries(meta_path)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        return [], [FoundFault("meta_unusable", "", str(meta_path), 0, str(error))]
    datasets, findings = [], []
    for number, (name, entry) in enumerate(entries.items()):
        opened = _open_entry(meta_path, number, name, entry)
        if isinstance(opened, FoundFault):
            findings.append(opened)
            continue
        datasets.append(opened)
        findings += [FoundFault(*found) for found in _about_entry(meta_path, entry, opened)]
    return datasets, [*findings, *_mixed_kinds(meta_path, datasets)]


def _mixed_kinds(meta_path: Path, datasets: Sequence[MixedDataset]) -> Iterator[FoundFault]:
    """A finding where some data sets begin with a pair and others with a conversation of judged steps."""
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for data in datasets:
        line, number = data.rows[0]
        with suppress(RecordError):
            kinds[is_judged(parse_row(line, data.rows.path, number))].append(data.spec.name)
    if all(kinds.values()):
        detail = f"{shown(kinds[True])} are of judged steps (--loss_type prm), {shown(kinds[False])} of pairs"
        yield FoundFault("kinds_mixed", "", str(meta_path), 0, detail)


def _open_entry(meta_path: Path, number: int, name: str, entry: object) -> MixedDataset | FoundFault:
    """The data set of an entry, or why there is none."""
    try:
        spec = DatasetSpec.from_entry(name, entry, str(meta_path))
    except ValueError as error:
        return FoundFault("meta_unusable", name, str(meta_path), 0, str(error))
    try:
        return open_dataset(spec, number, meta_path)
    except (FileNotFoundError, ObjectError) as error:
        return FoundFault("path_missing", name, str(meta_path), 0, str(error))
    except WrongFileError as error:
        return FoundFault("wrong_file", name, str(meta_path), 0, str(error))
    except ValueError as error:
        return FoundFault("no_rows", name, str(meta_path), 0, str(error))


def _about_entry(meta_path: Path, entry: object, data: MixedDataset) -> Iterator[tuple[str, str, str, int, str]]:
    """Findings about the entry of a data set that could be opened."""
    spec, rows = data.spec, len(data.rows)
    at = (spec.name, str(meta_path), 0)
    assert isinstance(entry, dict)
    for key in sorted(set(entry) - DatasetSpec.FIELDS):
        yield "meta_unknown_field", *at, f"{key!r}: {shown(entry[key])}; known are {sorted(DatasetSpec.FIELDS)}"
    if (said := entry.get("length")) is not None and spec.length != rows:
        yield "length_differs", *at, f"length is {shown(said)}, {data.rows.path} has {rows} rows"
    for doubt in doubtful_paths(spec, meta_path):
        yield "path_doubtful", *at, doubt
    if not len(data.order):
        yield "nothing_drawn", *at, f"repeat_time {spec.repeat_time} of {rows} rows"


@dataclass(frozen=True)
class Rows:
    """The usable rows of some data sets, in order: columns of equal length.

    Attributes:
        number: of the row's data set.
        line: in its file.
        prompt, pair, mirror: hashes, see `rows.RowFacts`.
    """

    number: np.ndarray
    line: np.ndarray
    prompt: np.ndarray
    pair: np.ndarray
    mirror: np.ndarray


def repeated_pairs(rows: Rows, datasets: Sequence[MixedDataset]) -> Iterator[FoundFault]:
    """Pairs that stand in the mixture before, and pairs of which the opposite does."""
    first, place = np.unique(rows.pair, return_index=True)
    for row, other in _matches(rows.pair, first, place, only_earlier=True):
        yield _finding("duplicate_pair", rows, row, datasets, f"as {_place(rows, other, datasets)}")
    for row, other in _matches(rows.mirror, first, place, only_earlier=True):
        detail = f"{_place(rows, other, datasets)} prefers the answer that is rejected here"
        yield _finding("contradictory_pair", rows, row, datasets, detail)


def held_out_prompts(
    train: Rows, held_out: Rows, train_sets: Sequence[MixedDataset], held_out_sets: Sequence[MixedDataset]
) -> Iterator[FoundFault]:
    """Rows of the held-out data whose images and question are trained on."""
    first, place = np.unique(train.prompt, return_index=True)
    for row, other in _matches(held_out.prompt, first, place):
        detail = f"the prompt of {_place(train, other, train_sets)} in the training data"
        yield _finding("held_out_in_train", held_out, row, held_out_sets, detail)


def length_bias(name: str, path: str, chosen: np.ndarray, rejected: np.ndarray) -> Iterator[FoundFault]:
    """A data set nearly all of whose chosen answers are longer, or shorter, than the rejected ones, in characters."""
    if len(chosen) < LEAST_PAIRS:
        return
    for word, share in (("longer", np.mean(chosen > rejected)), ("shorter", np.mean(chosen < rejected))):
        if share > MOST_LONGER:
            yield FoundFault("length_bias", name, path, 0, f"chosen is the {word} answer in {share:.0%} of its pairs")


def _matches(
    values: np.ndarray, known: np.ndarray, place: np.ndarray, *, only_earlier: bool = False
) -> Iterator[tuple[int, int]]:
    """(row, place) of each of `values` that is in the sorted `known`, `place` being parallel to it; or place < row."""
    if not len(known):
        return
    spot = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found = known[spot] == values
    if only_earlier:
        found &= place[spot] < np.arange(len(values))
    for row in np.flatnonzero(found):
        yield int(row), int(place[spot[row]])


def _finding(fault: str, rows: Rows, row: int, datasets: Sequence[MixedDataset], detail: str) -> FoundFault:
    data = datasets[rows.number[row]]
    return FoundFault(fault, data.spec.name, data.rows.path, int(rows.line[row]), detail)


def _place(rows: Rows, row: int, datasets: Sequence[MixedDataset]) -> str:
    return f"{datasets[rows.number[row]].spec.name}:{rows.line[row]}"
