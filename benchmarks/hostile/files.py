"""Whole files that are not what they should be, through everything that reads rows; and what earlier runs left."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .case import Case, Outcome, Place, base_row, by_entry, put_file

ROWS = "data/rows.jsonl"
ENTRIES = ("train", "validate", "view_file", "correctness", "dropout", "visualprm", "evaluate", "pairs", "prm_pairs")
REFUSED: dict[str, Outcome] = dict.fromkeys(ENTRIES, "refused")
EMPTIED: dict[str, Outcome] = {name: "refused" if name == "evaluate" else "emptied" for name in ENTRIES}
ASKING: dict[str, Outcome] = dict.fromkeys(
    ("train", "validate", "correctness", "dropout", "visualprm", "evaluate"), "refused"
)
ABSENT = r"rows\.jsonl.*(no such|not a regular file|is no file)|no \*\.jsonl"
USED: dict[str, Outcome] = dict.fromkeys(ENTRIES, "used")
LINES = [json.dumps(base_row(line)).encode() for line in (1, 2, 3)]


def cases() -> Iterator[Case]:
    """All cases of files."""
    for name, place in _special().items():
        yield from by_entry(REFUSED, "file", name, place, ABSENT)
    for name, data in _no_rows().items():
        yield from by_entry(EMPTIED, "file", name, put_file(ROWS, data), r"not a JSON row|: this is .*, not rows; ")
    for name, data in {"empty": b"", "blank lines": b"\n\n \n\r\n"}.items():
        yield from by_entry(ASKING, "file", name, put_file(ROWS, data), r"rows\.jsonl\S* (has )?no rows")
    named = {
        "carriage returns": b"\r\n".join(LINES) + b"\r\n",
        "no line end behind the last row": b"\n".join(LINES),
        "blank lines between": b"\n\n  \n\t\r\n".join(LINES) + b"\n\n",
    }
    for name, data in named.items():
        yield from by_entry(USED, "file", name, put_file(ROWS, data), "")
    yield from _leftovers()


def _special() -> dict[str, Place]:
    rows = Path(ROWS)
    return {
        "a folder": lambda folder: ((folder / rows).unlink(), (folder / rows).mkdir()),
        "a FIFO": lambda folder: ((folder / rows).unlink(), os.mkfifo(folder / rows)),
        "absent": lambda folder: (folder / rows).unlink(),
        "a link of nothing": lambda folder: ((folder / rows).unlink(), os.symlink("nothing", folder / rows)),
        "a link of itself": lambda folder: ((folder / rows).unlink(), os.symlink("rows.jsonl", folder / rows)),
        "a device": lambda folder: ((folder / rows).unlink(), os.symlink("/dev/zero", folder / rows)),
    }


def _no_rows() -> dict[str, bytes]:
    return {
        "compressed": gzip.compress(b"\n".join(LINES), mtime=0),
        "UTF-16": b"\n".join(LINES).decode().encode("utf-16"),
        "NUL bytes": b"\0" * 100_000,
        "one line of 50 MB": b"x" * 50_000_000,
        "a list over lines": json.dumps([base_row(1)], indent=1).encode(),
    }


def _leftovers() -> Iterator[Case]:
    manifest = "out/scripted/max_tiles_6/rows.parts/manifest.json"
    finished = "out/finished/rows.json"
    wrong = {"torn": b'{"gen', "a list": b"[]", "empty": b"", "null": b"null", "an object of nothing": b"{}"}
    for name, data in wrong.items():
        for entry, path in {"correctness": manifest, "pairs": finished}.items():
            says = r"(manifest|rows)\.json: \S+.*--overwrite"
            yield Case("file", f"{Path(path).name} {name}", entry, put_file(path, data), "refused", says)
