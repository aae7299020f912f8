"""A case: one malformed input, the entry point it goes through, and how that must end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

VICTIM = 2  # line of rows.jsonl that the cases change
IMAGE = "victim.png"  # its image
Outcome = Literal["refused", "emptied", "skipped", "used"]
Place = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        kind: what is malformed: image, row, path, text, meta, checkpoint, file, chat.
        name: tells it from others of its kind.
        entry: the entry point, a key of `entries.ENTRIES`.
        place: puts it into the clean folder of a run.
        outcome: how it must end. refused: an error that names it; skipped: a line of the ledger, the other rows are
            used; emptied: no row is used and the ledger has them, or an error says so; used: it is odd but valid.
        says: regular expression that the error or the ledger's reason has: what is wrong, or the cure.
    """

    kind: str
    name: str
    entry: str
    place: Place
    outcome: Outcome
    says: str = ""

    @property
    def id(self) -> str:
        """Kind, entry and name."""
        return f"{self.kind}/{self.entry}/{self.name}"


def base_row(line: int) -> dict[str, Any]:
    """A row that every entry point takes: a pair, a prompt, a sampled answer, and scored steps at once."""
    step = {"score": 0.5, "num_mc_correct": 1, "num_mc_total": 2}
    return {
        "image": IMAGE if line == VICTIM else "clean.png",
        "question": f"How many marks has picture {line}?",
        "question_orig": f"How many marks has picture {line}?",
        "answer": "5",
        "chosen": f"Picture {line} has two and three. Final answer: 5",
        "rejected": f"Picture {line} has two and four. Final answer: 6",
        "response": f"Picture {line} has two and three.\n\nFinal answer: 5",
        "prompt_version": "en",
        "steps_with_score": [
            {"step": f"Picture {line} has two and three.", **step},
            {"step": "Final answer: 5", **step},
        ],
    }


def put_row(fields: Mapping[str, Any], without: Iterable[str] = ()) -> Place:
    """The victim's row with these fields, without those."""
    row = {**base_row(VICTIM), **fields}
    return put_line(json.dumps({key: value for key, value in row.items() if key not in without}).encode())


def put_line(line: bytes) -> Place:
    """These bytes in place of the victim's line."""
    return partial(_put_line, line)


def _put_line(line: bytes, folder: Path) -> None:
    path = folder / "data" / "rows.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[: VICTIM - 1], line, *lines[VICTIM:]]))


def put_file(name: str, data: bytes) -> Place:
    """A file with these bytes; `name` is relative to the folder of the run."""
    return partial(_put_file, name, data)


def _put_file(name: str, data: bytes, folder: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def all_of(*places: Place) -> Place:
    """Several changes one after the other."""
    return partial(_all_of, places)


def _all_of(places: tuple[Place, ...], folder: Path) -> None:
    for place in places:
        place(folder)


def link(name: str, target: str) -> Place:
    """A symlink in the folder of the run; `target` as it stands, with {folder} for that folder."""
    return lambda folder: os.symlink(target.format(folder=folder), folder / name)


def by_entry(entries: Mapping[str, Outcome], kind: str, name: str, place: Place, says: str) -> Iterator[Case]:
    """The same input through several entry points."""
    for entry, outcome in entries.items():
        yield Case(kind, name, entry, place, outcome, says)
