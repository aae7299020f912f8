"""A mistake of a user's: words of a command line on a folder, what was spoiled in it, and what must be said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

MOST_LINES = 5


@dataclass(frozen=True)
class Mistake:
    """`says` are regular expressions that the last words must have: file, key or row first, then a cure."""

    name: str
    words: str
    says: tuple[str, ...]
    spoil: Callable[[Path], object] = lambda folder: None


def each(*mistakes: Mistake):
    """A test for each mistake, by its name."""
    assert len({mistake.name for mistake in mistakes}) == len(mistakes)
    return pytest.mark.parametrize("mistake", mistakes, ids=lambda mistake: mistake.name)


def check_ending(code, text, mistake):
    """Exit code 2, at most five lines without a traceback, and in them all that must be said."""
    assert code == 2, (code, text)
    assert "Traceback" not in text and 0 < len(text.splitlines()) <= MOST_LINES, text
    for wanted in mistake.says:
        assert re.search(wanted, text), (wanted, text)


def write(name, content) -> Callable[[Path], object]:
    """Puts bytes, text, or JSON into a file of the folder."""

    def place(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")

    return place


def remove(*names) -> Callable[[Path], object]:
    """Takes files away."""
    return lambda folder: [(folder / name).unlink() for name in names]


def rows(*changed) -> Callable[[Path], object]:
    """Rows of the annotation file, and nothing else in it."""
    return write("data/rows.jsonl", "".join(json.dumps(row) + "\n" for row in changed))


def change(name, **fields) -> Callable[[Path], object]:
    """Changes fields of a JSON object."""

    def place(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **fields}))

    return place
