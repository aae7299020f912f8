"""Grouping of sampled answers by question, and the drawing of pairs, in memory that does not grow with the data.

Two passes. `KeyPartitions` writes every row into one of many files by the hash of its key (image, question, answer);
then each file, small enough for memory, is read back, grouped and handed out in the order of the hashes. Whatever the
order of the input, the number of files or of processes, the groups and the pairs are the same; and as the hash
scatters the questions, any first part of them is a fair sample.

    with KeyPartitions(folder, KeyPartitions.count_for(total_bytes)) as partitions:
        for line in lines: partitions.add(question_key(image, question, answer), line)
        for index in range(partitions.count):
            for group in partitions.groups(index): ...
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import orjson
import xxhash

T = TypeVar("T")
U = TypeVar("U")

KEY_DIGITS = 32  # a 128-bit hash in hexadecimal
PARTITION_BYTES = 8 << 20  # read whole, about 8 times as much as Python objects
MAX_PARTITIONS = 512  # open files at a time; a soft limit of 1024 is usual


def question_key(image: Sequence[str], question: str, answer: Any) -> str:
    """The key that pairs share, 32 hexadecimal digits; an answer of 1 is another than one of "1"."""
    return xxhash.xxh3_128_hexdigest(orjson.dumps((list(image), question, answer), option=orjson.OPT_SORT_KEYS))


@dataclass(frozen=True)
class Group:
    """All lines of one key: `key` as from `question_key`, `lines` sorted, so independent of the order of the input."""

    key: str
    lines: list[bytes]


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
        """End of the first pass: flush, so that `groups` may be called, here or in another process."""
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


def read_groups(path: Path) -> Iterator[Group]:
    """The groups of one partition file, in the order of their keys."""
    groups: dict[bytes, list[bytes]] = {}
    with open(path, "rb", buffering=1 << 20) as file:
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
