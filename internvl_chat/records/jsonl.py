"""A JSONL file as a sequence of memory-mapped lines: any size, no start-up cost after the first time, no copies.

The file is mapped. An index of line starts (8 bytes a row) is built by one scan for newlines and kept in a cache folder
under a name made of the file's path, size and time of change. Workers forked after opening share both.

    rows = JsonlFile("pairs.jsonl")
    line, line_no = rows[0]
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from internvl_chat.model.file_kinds import wrong_kind
from internvl_chat.records.durable import cache_home, replacing

SCAN_BYTES = 1 << 24  # of the file, scanned at once
BLANK_CANDIDATE = 32  # bytes; only lines shorter than this are looked at for being blank

logger = logging.getLogger(__name__)


class WrongFileError(ValueError):
    """A file that is no JSONL; the text names it, what it is, and the cure."""


class JsonlFile:
    """The non-blank lines of a JSONL file: `len(rows)`, `rows[i] -> (line, line_no)`.

    Lines end with LF or CRLF, the last one with or without; `line` comes without its end, `line_no` counts all lines
    of the file from 1.
    """

    def __init__(self, path: str | Path, cache_dir: str | Path | None = None) -> None:
        """Map `path`; index it unless `cache_dir` (default: `default_cache_dir()`) has its index.

        Raises:
            FileNotFoundError: there is no such file, or it is a folder, a pipe or a device.
            WrongFileError: its first bytes are those of something else.
        """
        if not os.path.isfile(path):
            kind = "not a regular file" if os.path.exists(path) else "no such file"
            raise FileNotFoundError(f"{path}: {kind}; name a JSONL file, one row a line")
        check_rows_file(path)
        self.path = str(path)
        self._map = _map_file(self.path)
        self._starts, self._line_numbers = load_index(self.path, cache_dir)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        start = int(self._starts[row])
        end = self._map.find(b"\n", start)
        line = self._map[start : end if end >= 0 else len(self._map)]
        return line.rstrip(b"\r"), self.line_number(row)

    def line_number(self, row: int) -> int:
        """Number of the line that holds row `row`, from 1; not row + 1 where blank lines precede."""
        return row + 1 if self._line_numbers is None else int(self._line_numbers[row])

    def forget_pages(self) -> None:
        """Give back the memory of the lines that were read: mapped pages count as this process's until then."""
        if isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED)

    def row_bytes(self) -> np.ndarray:
        """Length of each row in bytes, (rows,) int64, line ends and blank lines after it included."""
        return np.diff(self._starts.astype(np.int64), append=len(self._map))

    def __getstate__(self) -> dict[str, Any]:
        """Pickled for workers that are not forked: without the map, which each opens anew."""
        return {**self.__dict__, "_map": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map = _map_file(self.path)


def check_rows_file(path: str | Path) -> None:
    """Raise WrongFileError where the first bytes of a file are not those of rows; an empty file passes."""
    if wrong := wrong_kind(path, "rows"):
        raise WrongFileError(f"{path}: {wrong}")


def default_cache_dir() -> Path:
    """Where indexes are kept: `jsonl` below `cache_home()`."""
    return cache_home() / "jsonl"


def load_index(path: str, cache_dir: str | Path | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Byte offsets of the rows of a JSONL file, (rows,) uint64; their line numbers, or None where row i is line i + 1.

    Memory-mapped from the cache where they are there, else scanned and put there. A cache that cannot be written is no
    error: it only costs the next run its scan.
    """
    stat = os.stat(path)
    key = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:24]
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    cached = folder / f"{key}-{stat.st_size}-{stat.st_mtime_ns}.npy"
    index = _read_index(cached)
    if index is None:
        index = _scan(path)
        try:
            _write_index(cached, index)
        except OSError as error:
            logger.info("%s: index of lines not kept in %s (%s)", path, folder, error)
    return index[0], index[1] if len(index) > 1 else None


def _map_file(path: str) -> mmap.mmap | bytes:
    """The file in memory-mapped form; an empty file cannot be mapped and is empty bytes."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""


def _scan(path: str) -> np.ndarray:
    """Offsets (1, rows) uint64 of the lines, or (2, rows) with their numbers where blank lines were left out."""
    found, offset = [np.zeros(1, np.uint64)], 0
    # Read, not mapped: a scan of mapped pages would count the whole file as memory of this process.
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(SCAN_BYTES):
            newlines = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
            found.append((newlines + (offset + 1)).astype(np.uint64))
            offset += len(chunk)
    starts = np.concatenate(found)
    starts = starts[starts < offset]  # no line starts after a final newline
    blank = _blank_lines(path, starts, offset)
    if not blank:
        return starts[None]
    numbers = np.arange(1, len(starts) + 1, dtype=np.uint64)
    return np.delete(np.stack([starts, numbers]), blank, axis=1)


def _blank_lines(path: str, starts: np.ndarray, size: int) -> list[int]:
    """Indices of the lines with nothing but white space, among those shorter than BLANK_CANDIDATE."""
    lengths = np.diff(starts, append=np.uint64(size))
    with open(path, "rb") as file:
        blank = []
        for index in np.flatnonzero(lengths < BLANK_CANDIDATE):
            file.seek(int(starts[index]))
            if not file.read(int(lengths[index])).strip():
                blank.append(int(index))
    return blank


def _read_index(path: Path) -> np.ndarray | None:
    """A kept index, memory-mapped; None where there is none that can be read."""
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return index if index.ndim == 2 and index.dtype == np.uint64 else None


def _write_index(path: Path, index: np.ndarray) -> None:
    """Keep an index; whole or not at all, whatever other processes do."""
    with replacing(path) as fresh, fresh.open("wb") as file:
        np.save(file, index)
