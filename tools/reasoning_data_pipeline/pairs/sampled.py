"""The files of a sampling run: which belong together, and their rows one by one into partitions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from internvl_chat.records.rows import RecordError, Source
from tools.reasoning_data_pipeline.pairs.drawing import KeyPartitions

PROGRESS_LINES = 1000
BUFFER = 1 << 20  # bytes


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
    for folder, folders, names in os.walk(data_dir, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.endswith(".parts"))
        if Path(folder).resolve().is_relative_to(exclude.resolve()):
            folders.clear()
            continue
        for name in sorted(names):
            path = Path(folder) / name
            if name.endswith(".jsonl") and name != "rejects.jsonl" and os.path.isfile(path):
                found.setdefault(name.removesuffix(".jsonl"), []).append(path)
    datasets = [SampledDataset(name, tuple(files)) for name, files in found.items()]
    return sorted(datasets, key=lambda dataset: (-dataset.size, dataset.name))


def partition_rows(
    dataset: SampledDataset, partitions: KeyPartitions, find_key: Callable[[bytes, Source], str]
) -> list[dict[str, Any]]:
    """First pass: put every row where its question is; returns the rows that `find_key` refused (RecordError)."""
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
    with tqdm(total=dataset.size, unit="B", unit_scale=True, desc=f"{dataset.name}: read") as bar:
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
