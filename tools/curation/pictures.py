"""Hashes of many pictures, computed by all cores and kept: a run that was stopped goes on, a repeat reads them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import xxhash

from internvl_chat.data.images import ImageError
from internvl_chat.records.durable import json_line, open_for_append, whole_lines
from internvl_chat.run.bars import track
from tools.curation.likeness import VIEWS, exact_hash, view_hashes

CHUNK = 32  # pictures a worker takes at once


class PictureHashes:
    """Exact and perceptual hashes by file; pictures that cannot be read have none."""

    def __init__(self, path: Path, num_workers: int) -> None:
        """Keep them in `path`, a JSONL file; what it has counts while a file's size and time of change are the same."""
        self.path, self.num_workers = path, num_workers
        self._known: dict[int, np.ndarray] = {}  # key -> exact hash, then views
        if path.is_file():
            self._known = {row["key"]: np.array(row["hashes"], np.uint64) for _, row in whole_lines(path)}

    def fill(self, paths: Iterable[str]) -> None:
        """Compute what is not known of these files.

        Raises:
            BlockingIOError: another process writes the same file.
        """
        wanted = [path for path in dict.fromkeys(paths) if _key(path) not in self._known]
        if not wanted:
            return
        with open_for_append(self.path) as file, multiprocessing.Pool(self.num_workers) as pool:
            found = pool.imap_unordered(_hashes, wanted, CHUNK)
            for key, hashes in track(found, total=len(wanted), desc="pictures", unit="picture"):
                file.write(json_line({"key": key, "hashes": hashes}))
                self._known[key] = np.array(hashes, np.uint64)

    def exact(self, path: str) -> int | None:
        """Hash of a file's bytes; None where it cannot be read."""
        hashes = self._known[_key(path)]
        return int(hashes[0]) if len(hashes) else None

    def views(self, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Which of these can be read, their indices (R,), and their view hashes (R, V) uint64."""
        hashes = [self._known[_key(path)] for path in paths]
        readable = [index for index, found in enumerate(hashes) if len(found)]
        views = [hashes[index][1:] for index in readable]
        return np.array(readable, np.int64), np.array(views, np.uint64).reshape(-1, len(VIEWS))


def _key(path: str) -> int:
    """Names the content of a file, without reading it."""
    try:
        stat = os.stat(path)
        text = f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}"
    except OSError:
        text = f"{os.path.abspath(path)}\0absent"
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _hashes(path: str) -> tuple[int, list[int]]:
    """Key of a file, its exact hash and views; none of what cannot be read."""
    try:
        return _key(path), [exact_hash(path), *view_hashes(path).tolist()]
    except (ImageError, OSError):
        return _key(path), []


def group_same(
    paths: Sequence[str],
    hashes: PictureHashes,
    same: Callable[[str, str], bool],
    near: Callable[..., Iterable[tuple[int, int]]],
) -> list[int]:
    """For each file the index of the first one that shows the same picture."""
    label = list(range(len(paths)))
    by_content: dict[int, int] = {}
    for index, path in enumerate(paths):
        content = hashes.exact(path)
        if content is not None:
            label[index] = by_content.setdefault(content, index)
    firsts = [index for index in range(len(paths)) if label[index] == index]
    readable, views = hashes.views([paths[index] for index in firsts])
    for one, other in near(views, views):
        earlier, later = firsts[readable[one]], firsts[readable[other]]
        if earlier < later and root_of(label, earlier) != root_of(label, later) and same(paths[earlier], paths[later]):
            low, high = sorted((root_of(label, earlier), root_of(label, later)))
            label[high] = low
    return [root_of(label, index) for index in range(len(paths))]


def root_of(label: Sequence[int] | np.ndarray, index: int) -> int:
    """The first of the group that an index is in; labels lead to earlier ones."""
    while label[index] != index:
        index = int(label[index])
    return index
