"""Files that survive a kill: replaced in one step, appended to in whole lines behind a cut tail, read tolerantly.

Every file of ours that is replaced, of a stage, an index or a cache, is replaced by `replacing`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # file systems mounted without flock


def cache_home() -> Path:
    """Where files are kept that can be made again: `internvl_chat` below $XDG_CACHE_HOME or ~/.cache.

    A user without a home, as in some containers, has one below the folder of temporary files.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "internvl_chat"
    home = os.path.expanduser("~")
    if home.startswith("~"):  # neither $HOME nor an entry of this user id
        return Path(tempfile.gettempdir()) / f"internvl_chat-{os.getuid()}"
    return Path(home) / ".cache" / "internvl_chat"


def json_line(value: Any) -> bytes:
    """One JSONL line, UTF-8, with its line end."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def json_text(value: Any) -> bytes:
    """A JSON file for people: UTF-8, indented."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_json(path: Path, fields: Iterable[str]) -> dict[str, Any]:
    """A JSON object that an earlier run wrote; ValueError with the cure unless it has these fields."""
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it, or start afresh with --overwrite") from error
    if not isinstance(value, dict) or not set(fields) <= value.keys():
        raise ValueError(f"{path}: lacks one of {list(fields)}; remove it, or start afresh with --overwrite")
    return value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh name beside `path` to write to; what is written there takes the place of `path` when the block ends well.

    `path` is whole or as it was at any moment, also after a power failure, whatever other processes do. Its folder is
    made. An error in the block leaves `path` alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield fresh
        sync(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    sync(path.parent)  # the new name itself


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp(path: str | Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds, by which a file's content is known without reading it.

    Never the time of access: reading changes it, and each node of a cluster may see another.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that is there whole or not at all, also after a power failure; makes its folder."""
    with replacing(path) as fresh, open(fresh, "wb") as file:
        file.writelines(chunks)


def join_files(path: Path, parts: Iterable[Path]) -> None:
    """Write the contents of several files, one behind the other, into one that is there whole or not at all."""
    write_atomically(path, (chunk for part in parts for chunk in _chunks(part)))


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def whole_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(byte offset, parsed value) of each complete line; a torn last line and lines that are not JSON are left out."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                try:
                    yield offset, orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    logger.warning("%s: damaged line at byte %d left out (%s)", path, offset, error)
            offset += len(line)


def open_for_append(path: Path) -> BinaryIO:
    """Open behind the last whole line: a torn tail is cut off.

    Raises:
        BlockingIOError: another live process has the file open through this function.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "ab+")  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise BlockingIOError(f"{path} is being written by another process: is the run started twice?") from error
    file.seek(0)
    end = sum(len(line) for line in file if line.endswith(b"\n"))
    file.truncate(end)
    return file
