"""Files of rows as entries with their numbers: parquet tables, JSONL, and JSON files that are one list.

    file = open_file(Path("rlhf.json"), is_table=False)
    for number, entry in file.entries():
        row = as_row(entry, Source(str(file.path), number))

Tables are read in batches and JSONL by the line; a JSON list is in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from internvl_chat.model.file_kinds import wrong_kind
from internvl_chat.records.jsonl import check_rows_file
from internvl_chat.records.rows import RecordError, Source, parse_row, shown
from tools.importing.layouts import Layout, layout_of

ROWS_AT_ONCE = 64  # with their pictures in memory
START = 256  # bytes of a file that tell a list from lines
NO_PICTURE: dict[str, Any] = {"bytes": None, "path": None}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ImportedFile:
    """A file that was looked at: its `path`, whether it is a parquet table, its `layout`, None where it has no row."""

    path: Path
    is_table: bool
    layout: Layout | None

    @property
    def total(self) -> int | None:
        """Rows of a table, None where only reading would tell."""
        return pq.read_metadata(self.path).num_rows if self.is_table else None

    def entries(self) -> Iterator[tuple[int, Any]]:
        """What it holds, for `as_row`, with numbers from 1: of lines, of rows, of entries of a list."""
        return _entries(self.path, is_table=self.is_table)


def open_file(path: Path, *, is_table: bool) -> ImportedFile:
    """Look at a file; its layout is told by the columns of a table, else by the first row.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind than it should be, cannot be read, or has no known layout.
    """
    flag, what = ("--parquet", "parquet") if is_table else ("--rows", "JSON")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {flag} names {what} files, see data/README.md")
    if wrong := wrong_kind(path, what):
        raise ValueError(f"{path}: {wrong}")
    return ImportedFile(path, is_table, layout_of(_columns(path), f"{path}") if is_table else _layout_of_rows(path))


def _columns(path: Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as parquet ({error}); fetch it again") from error


def _layout_of_rows(path: Path) -> Layout | None:
    for number, entry in _entries(path, is_table=False):
        try:
            row = as_row(entry, Source(str(path), number))
        except RecordError:  # left out when rows are read, with its reason
            continue
        return layout_of(row, f"{path}: row {number}")
    return None


def _entries(path: Path, *, is_table: bool) -> Iterator[tuple[int, Any]]:
    if is_table:
        return enumerate(_table_rows(path), 1)
    with open(path, "rb") as file:
        start = file.read(START).removeprefix(BYTE_ORDER_MARK).lstrip()
    return enumerate(_listed(path), 1) if start.startswith(b"[") else _lines(path)


def _table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table without the fields that are null; a null in the column `image` is a missing picture."""
    for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            lacking = {"image": NO_PICTURE} if "images" not in row and row.get("image", b"") is None else {}
            yield {name: value for name, value in row.items() if value is not None} | lacking


def _listed(file: Path) -> list[Any]:
    try:
        return orjson.loads(file.read_bytes().removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{file}: cannot be read as JSON ({error.msg}, {at}); mend it, or write JSONL") from error


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    check_rows_file(file)
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield number, text


def as_row(entry: Any, where: Source) -> dict[str, Any]:
    """An entry as a row; RecordError where it is none."""
    row = parse_row(entry.rstrip(b"\r\n"), *where) if isinstance(entry, bytes) else entry
    if not isinstance(row, Mapping):
        raise RecordError(*where, f"a row is a JSON object {{...}}, not {shown(row)}", "bad_json")
    return dict(row)
