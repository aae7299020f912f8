"""A mixture of data sets: which row stands at which place of an epoch.

    mixture = Mixture.from_meta("MMPR-v1.1/meta.json")
    data, row, copy = mixture.locate(0)
    line, line_no = data.rows[row]

Every data set is repeated `repeat_time` times (exactly: round-half-up(r n) rows of n) and shuffled; they follow one
another in the order of meta.json. All of it is a function of the files and the seed, held in 4 bytes a place.
"""

from __future__ import annotations

import bisect
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.meta import DatasetSpec, read_meta
from internvl_chat.records.near_names import did_you_mean
from internvl_chat.records.objects import fetch, is_object
from internvl_chat.records.rows import shown, shown_path

MAX_PLACES = 100_000_000  # of a data set in an epoch, at 4 bytes each
BYTES_PER_TOKEN = 4  # of a row's JSON: a rough figure, only to put rows of like length together

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixedDataset:
    """One data set of a mixture, opened.

    Attributes:
        spec: its entry of meta.json.
        number: its place in meta.json, from 0.
        root: folder of its images, resolved.
        rows: its rows.
        order: (places,) unsigned; place p of its epoch holds copy order[p] // len(rows) of row order[p] % len(rows).
    """

    spec: DatasetSpec
    number: int
    root: str
    rows: JsonlFile
    order: np.ndarray


class Place(NamedTuple):
    """What stands at one place of an epoch: row `row` of `data`, its copy number `copy`, both from 0."""

    data: MixedDataset
    row: int
    copy: int


class Mixture:
    """The places of an epoch: `len(mixture)`, `mixture.locate(place)`."""

    def __init__(self, datasets: list[MixedDataset]) -> None:
        self.datasets = datasets
        self._ends = list(accumulate(len(data.order) for data in datasets))

    @classmethod
    def from_meta(cls, meta_path: str | Path, *, seed: int = 0, cache_dir: str | Path | None = None) -> Mixture:
        """Open all data sets of a meta.json.

        Args:
            meta_path: the file.
            seed: of the rows that a fractional `repeat_time` draws.
            cache_dir: of the line indexes; see `internvl_chat.records.jsonl`.

        Raises:
            FileNotFoundError: meta.json, a root or an annotation file is not there; names every place looked at.
            ValueError: meta.json is not usable, a file has no rows, or no row is left.
        """
        specs = read_meta(meta_path)
        datasets = [
            open_dataset(spec, number, meta_path, seed=seed, cache_dir=cache_dir) for number, spec in enumerate(specs)
        ]
        mixture = cls(datasets)
        if not len(mixture):
            raise ValueError(f"{meta_path}: no row is left, repeat_time is {[spec.repeat_time for spec in specs]}")
        return mixture

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, place: int) -> Place:
        """The row at a place, 0 <= place < len(self); IndexError elsewhere."""
        if not 0 <= place < len(self):
            raise IndexError(f"place {place} of a mixture of {len(self)} rows")
        number = bisect.bisect_right(self._ends, place)
        data = self.datasets[number]
        entry = int(data.order[place - self._ends[number]])  # counted from the data set's end
        copy, row = divmod(entry, len(data.rows))
        return Place(data, row, copy)

    def row_bytes(self) -> np.ndarray:
        """Bytes of the row at each place, (places,) uint32: what is known of lengths without reading rows."""
        sizes = [data.rows.row_bytes().astype(np.uint32)[data.order % len(data.rows)] for data in self.datasets]
        return np.concatenate(sizes)


def open_dataset(
    spec: DatasetSpec, number: int, meta_path: str | Path, *, seed: int = 0, cache_dir: str | Path | None = None
) -> MixedDataset:
    """Open one data set, `number` in `meta_path` from 0, and draw its order; errors as `Mixture.from_meta`."""
    root, annotation = resolve_entry(spec, Path(meta_path))
    for doubt in doubtful_paths(spec, Path(meta_path)):
        logger.warning("%s: data set %s: %s", meta_path, shown(spec.name), doubt)
    rows = JsonlFile(annotation, cache_dir)
    if not len(rows):
        raise ValueError(f"{meta_path}: data set {spec.name!r}: {annotation} has no rows")
    if spec.length is not None and spec.length != len(rows):
        logger.warning(
            "%s: 'length' of %r is %d, %s has %d rows", meta_path, spec.name, spec.length, annotation, len(rows)
        )
    if (places := repeated_count(len(rows), spec.repeat_time)) > MAX_PLACES:
        promised = f"repeat_time {spec.repeat_time} of {len(rows)} rows makes {places} pairs"
        raise ValueError(f"{meta_path}: data set {spec.name!r}: {promised}, at most {MAX_PLACES} are possible")
    order = repeated_order(len(rows), spec.repeat_time, number, seed)
    logger.info("%s: %d rows, %d with repeat_time %s", spec.name, len(rows), len(order), spec.repeat_time)
    return MixedDataset(spec, number, str(root), rows, order)


def resolve_entry(spec: DatasetSpec, meta_path: Path) -> tuple[Path | str, Path]:
    """Root and annotation of an entry of meta.json: as given from the working directory, else from meta.json's folder.

    The root is looked for first where the annotation was found, so that a folder with pairs, pictures and meta.json can
    be moved anywhere. Of an object store, a root stays as it is, and an annotation is a local copy of what is there
    now.

    Raises:
        FileNotFoundError: one of them is at neither place.
        ObjectError: an annotation cannot be fetched.
    """
    if is_object(spec.annotation):
        annotation, moves_along = Path(fetch(spec.annotation, version=True)), False
    else:
        annotation = find_path(spec, "annotation", meta_path)
        moves_along = annotation != Path(spec.annotation)
    root = spec.root if is_object(spec.root) else find_path(spec, "root", meta_path, beside_first=moves_along)
    return root, annotation


def _places(path: str, meta_path: Path) -> list[Path]:
    """Where a path of meta.json may lie: from the working directory, and from the folder of meta.json."""
    return [Path(path), meta_path.parent / path]


def _is_there(key: str, path: Path) -> bool:
    return os.path.isdir(path) if key == "root" else os.path.isfile(path)  # unlike pathlib's, not upset by any path


def find_path(spec: DatasetSpec, key: str, meta_path: Path, *, beside_first: bool = False) -> Path:
    """Where the "root" of an entry is a folder, or its "annotation" a file; FileNotFoundError names both places."""
    places = _places(getattr(spec, key), meta_path)
    for place in reversed(places) if beside_first else places:
        if _is_there(key, place):
            return place
    kind = "folder" if key == "root" else "file"
    looked = " nor ".join(shown_path(str(place.absolute())) for place in dict.fromkeys(places))
    path = shown(getattr(spec, key), 200)
    bases = [str(place) for place in _places(".", meta_path)]
    near = did_you_mean(getattr(spec, key), bases, lambda there: _is_there(key, Path(there)))
    raise FileNotFoundError(f"{meta_path}: data set {shown(spec.name)}: {key} {path} is no {kind} at {looked}{near}")


def doubtful_paths(spec: DatasetSpec, meta_path: Path) -> Iterator[str]:
    """A sentence on each path of an entry that names one thing from the working directory, another beside meta.json."""
    if is_object(spec.annotation) or is_object(spec.root):
        return
    for key, read in zip(("root", "annotation"), map(Path, resolve_entry(spec, meta_path)), strict=True):
        path = getattr(spec, key)
        there = [place for place in _places(path, meta_path) if _is_there(key, place)]
        if os.path.normpath(path) != "." and len(there) == 2 and not os.path.samefile(*there):
            [other] = (place.resolve() for place in there if place != read)
            both = f"{key} {shown(path)} is both {read.resolve()}, which is read, and {other}"
            yield f"{both}; write an absolute path to choose"


def repeated_count(num_rows: int, repeat_time: float) -> int:
    """round-half-up(repeat_time * num_rows), repeat_time taken as the decimal number that is written in meta.json."""
    return math.floor(Fraction(str(repeat_time)) * num_rows + Fraction(1, 2))


def repeated_order(num_rows: int, repeat_time: float, number: int, seed: int) -> np.ndarray:
    """The epoch of a data set as entries copy * num_rows + row: whole copies, a drawn sample for the rest, shuffled.

    The shuffle is that of the original, seeded by the data set's number in meta.json; `seed` only draws the sample.
    """
    copies = math.floor(repeat_time)
    whole = copies * num_rows
    rest = repeated_count(num_rows, repeat_time) - whole
    dtype = np.uint32 if whole + num_rows < 2**32 else np.uint64
    order = np.arange(whole + rest, dtype=dtype)
    if rest:
        drawn = np.random.default_rng([seed, number]).choice(num_rows, rest, replace=False, shuffle=False)
        order[whole:] = whole + np.sort(drawn)
    np.random.default_rng(number).shuffle(order)
    return order
