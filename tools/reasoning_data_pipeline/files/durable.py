"""JSONL files that survive a kill: whole-line appends behind a cut tail, replacement in one step, tolerant reading."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # file systems mounted without flock


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


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that is there whole or not at all, also after a power failure; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


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
