"""The JSONL and meta.json files that stages of a study hand to each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_meta(meta: Path) -> dict[str, Row]:
    """The entries of a meta.json, their paths absolute: they go into files of other folders."""
    entries = json.loads(meta.read_text(encoding="utf-8"))
    for entry in entries.values():
        entry |= {name: str((meta.parent / entry[name]).resolve()) for name in ("root", "annotation")}
    return entries


def write_meta(path: Path, meta: Mapping[str, Row]) -> Path:
    """Write a meta.json; its path."""
    path.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return path


def lengths_of(meta: Path) -> dict[str, int]:
    """Rows of each data set of a meta.json."""
    return {name: entry["length"] for name, entry in read_meta(meta).items()}


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """Write a JSONL file; its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
