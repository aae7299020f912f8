"""Rows of many files grouped by question, and the drawing of pairs, in memory that does not grow with the data.

Two passes. `partition_rows` writes every row into one of many files by the hash of its key (image, question, answer);
then each file, small enough for memory, is read back, grouped and handed out in the order of the hashes. Whatever the
order of the input, the number of files or of processes, the groups and the pairs are the same; and as the hash
scatters the questions, any first part of them is a fair sample.

    with KeyPartitions(folder, KeyPartitions.count_for(dataset.size)) as partitions:
        rejects = partition_rows(dataset, partitions, find_key)
        for index in range(partitions.count):
            for group in read_groups(partitions.path(index)): ...
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import orjson
import xxhash
from tqdm import tqdm

from internvl_chat.records.jsonl import check_rows_file
from internvl_chat.records.rows import RecordError, Source, own_keys, parse_row
from internvl_chat.run.bars import track

T = TypeVar("T")
U = TypeVar("U")

KEY_DIGITS = 32  # a 128-bit hash in hexadecimal
PARTITION_BYTES = 8 << 20  # read whole, about 8 times as much as Python objects
MAX_PARTITIONS = 512  # open files at a time; a soft limit of 1024 is usual
PROGRESS_LINES = 1000
BUFFER = 1 << 20  # bytes


def question_key(image: Sequence[str], question: str, answer: Any) -> str:
    """The key that pairs share, 32 hexadecimal digits; an answer of 1 is another than one of "1"."""
    return xxhash.xxh3_128_hexdigest(orjson.dumps((list(image), question, answer), option=orjson.OPT_SORT_KEYS))


@dataclass(frozen=True)
class Group:
    """All lines of one key: `key` as from `question_key`, `lines` sorted, so independent of the order of the input."""

    key: str
    lines: list[bytes]

    def rows(self) -> list[dict[str, Any]]:
        """The lines, parsed, their pictures under `image`; `partition_rows` has checked them."""
        where = Source("partition", 1)
        return [dict(own_keys(parse_row(line, *where), where)) for line in self.lines]


class KeyPartitions:
    """JSONL lines on disk, by the hash of their key.

    Args:
        folder: made, and removed with all it holds when the context ends.
        count: number of files, 1..512.
    """

    def __init__(self, folder: Path, count: int) -> None:
        if not 1 <= count <= MAX_PARTITIONS:
            raise ValueError(f"the number of partitions must be in 1..{MAX_PARTITIONS}, not {count}")
        self.folder, self.count = folder, count
        self.lines = [0] * count
        self._files: list[BinaryIO] = []

    @staticmethod
    def count_for(total_bytes: int) -> int:
        """Files needed for so much input."""
        return min(MAX_PARTITIONS, 1 + total_bytes // PARTITION_BYTES)

    def path(self, index: int) -> Path:
        """The file of partition `index`."""
        return self.folder / f"{index:03d}.part"

    def add(self, key: str, line: bytes) -> None:
        """Keep one line (with its line end) under a key; keys sort as the partitions do."""
        index = int(key[:8], 16) * self.count >> 32
        self._files[index].write(key.encode() + line)
        self.lines[index] += 1

    def close_files(self) -> None:
        """End of the first pass: flush, so that `read_groups` may be called, here or in another process."""
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> KeyPartitions:
        shutil.rmtree(self.folder, ignore_errors=True)  # what a killed run left
        self.folder.mkdir(parents=True)
        self._files = [open(self.path(index), "wb", buffering=1 << 16) for index in range(self.count)]  # noqa: SIM115 (close_files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close_files()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class SampledDataset:
    """The files of one data set, in any order."""

    name: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)


def find_datasets(data_dir: Path, exclude: Path) -> list[SampledDataset]:
    """The data sets below `data_dir`, largest first: files of one name belong together.

    Left out: what is no regular file, what stands below `exclude` (the folder that is written), shards of unfinished
    runs, and rejects.
    """
    found: dict[str, list[Path]] = {}
    for path in _sampled_files(data_dir, exclude):
        found.setdefault(path.name.removesuffix(".jsonl"), []).append(path)
    datasets = [SampledDataset(name, tuple(files)) for name, files in found.items()]
    return sorted(datasets, key=lambda dataset: (-dataset.size, dataset.name))


def _sampled_files(data_dir: Path, exclude: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(data_dir, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.endswith(".parts"))
        if Path(folder).resolve().is_relative_to(exclude.resolve()):
            folders.clear()
            continue
        rows = (Path(folder) / name for name in sorted(names) if name.endswith(".jsonl") and name != "rejects.jsonl")
        yield from filter(Path.is_file, rows)


def partition_rows(
    dataset: SampledDataset, partitions: KeyPartitions, find_key: Callable[[bytes, Source], str]
) -> list[dict[str, Any]]:
    """First pass: put every row where its question is; returns the rows that `find_key` refused (RecordError).

    Raises:
        WrongFileError: a file is no JSONL.
    """
    for path in dataset.files:
        check_rows_file(path)
    rejects = []
    for where, line in _located_lines(dataset):
        try:
            partitions.add(find_key(line, where), line)
        except RecordError as error:
            rejects.append({"file": error.file, "line": error.line, "reason": error.reason})
    partitions.close_files()
    return rejects


def _located_lines(dataset: SampledDataset) -> Iterator[tuple[Source, bytes]]:
    """Each line that is not blank, with its end, and where it stands; with progress."""
    with track(total=dataset.size, unit="B", unit_scale=True, desc=f"{dataset.name}: read") as bar:
        for path in dataset.files:
            for number, line in _numbered_lines(path, bar):
                yield Source(str(path), number), line


def _numbered_lines(path: Path, bar: tqdm) -> Iterator[tuple[int, bytes]]:
    size = 0
    with open(path, "rb", buffering=BUFFER) as file:
        for number, line in enumerate(file, 1):
            size += len(line)
            if not number % PROGRESS_LINES:
                bar.update(size)
                size = 0
            if not line.isspace():
                yield number, line if line.endswith(b"\n") else line + b"\n"
    bar.update(size)


def read_groups(path: Path) -> Iterator[Group]:
    """The groups of one partition file, in the order of their keys."""
    groups: dict[bytes, list[bytes]] = {}
    with open(path, "rb", buffering=BUFFER) as file:
        for line in file:
            groups.setdefault(line[:KEY_DIGITS], []).append(line[KEY_DIGITS:])
    for key in sorted(groups):
        yield Group(key.decode(), sorted(groups.pop(key)))


def draw(items: Sequence[T], limit: int, seed: str) -> Sequence[T]:
    """Up to `limit` of the items in their order, every choice equally likely; all of them if `limit` is 0.

    Args:
        items: in an order that does not depend on the order of the input.
        seed: it alone decides the choice.
    """
    if limit < 0:
        raise ValueError(f"the limit must be 0 (all) or more, not {limit}")
    if not 0 < limit < len(items):
        return items
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), limit))]


def draw_pairs(chosen: Sequence[T], rejected: Sequence[U], limit: int, seed: str) -> list[tuple[T, U]]:
    """Up to `limit` different (chosen, rejected) pairs, as `draw` of all of them."""
    picked = draw(range(len(chosen) * len(rejected)), limit, seed)
    return [(chosen[index // len(rejected)], rejected[index % len(rejected)]) for index in picked]


def widest_pairs(
    chosen: Sequence[T],
    rejected: Sequence[U],
    limit: int,
    chosen_score: Callable[[T], float],
    rejected_score: Callable[[U], float],
) -> list[tuple[T, U]]:
    """Up to `limit` (all if 0) different pairs, those whose scores are furthest apart first: the best chosen with the
    worst rejected answer. Of equal distances, the earlier items."""
    pairs = [(one, other) for one in chosen for other in rejected]
    ranked = sorted(pairs, key=lambda pair: rejected_score(pair[1]) - chosen_score(pair[0]))
    return ranked[: limit or None]
