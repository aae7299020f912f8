"""meta.json of every wrong kind, and what it points to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from .case import Case, Outcome, Place, all_of, by_entry, put_file

READERS: dict[str, Outcome] = {"train": "refused", "validate": "refused", "view": "refused"}
TRAIN: dict[str, Outcome] = {"train": "refused", "validate": "refused"}
NO_FILE = "'rows': annotation .*is no file at"
META = "data/meta.json"
ENTRY: dict[str, Any] = {"root": "images", "annotation": "rows.jsonl"}


def cases() -> Iterator[Case]:
    """All cases of meta.json."""
    yield from _files()
    yield from _entries()
    yield from _targets()
    yield from _valid()


def _files() -> Iterator[Case]:
    named = {
        "empty": b"",
        "blank": b"   \n",
        "torn": json.dumps({"rows": ENTRY}).encode()[:-5],
        "trailing comma": b'{"rows": {"root": "images", "annotation": "rows.jsonl",}}',
        "byte order mark": b"\xef\xbb\xbf" + json.dumps({"rows": ENTRY}).encode(),
        "UTF-16": json.dumps({"rows": ENTRY}).encode("utf-16"),
        "no UTF-8": b'{"rows": "\xff\xfe"}',
        "NUL bytes": b"\0" * 100,
        "nested 100,000 deep": b"[" * 100_000,
        "objects nested 100,000 deep": b'{"a":' * 100_000,
        "list": b"[]",
        "null": b"null",
        "number": b"5",
        "string": b'"rows.jsonl"',
        "empty object": b"{}",
        "two names alike": b'{"rows": {}, "rows": {}}',
        "a field twice": b'{"rows": {"root": "images", "root": "images", "annotation": "rows.jsonl"}}',
        "integer of 5000 digits": b'{"rows": {"root": "images", "length": ' + b"9" * 5000 + b"}}",
        "a pickle": b"\x80\x04\x8c\x02os.",
        "JSONL": b'{"question": "How many?"}\n{"question": "How many?"}\n',
        "YAML": b"rows:\n  root: images\n",
        "10 MB of no JSON": b"x" * 10_000_000,
        "a name of 10 MB": json.dumps({"x" * 10_000_000: 5}).encode(),
        "100,000 data sets": json.dumps({f"d{number}": {} for number in range(100_000)}).encode(),
    }
    for name, data in named.items():
        yield from by_entry(READERS, "meta", name, put_file(META, data), r"meta\.json: \S+")
    special: dict[str, Place] = {
        "folder": lambda folder: ((folder / META).unlink(), (folder / META).mkdir()),
        "FIFO": lambda folder: ((folder / META).unlink(), os.mkfifo(folder / META)),
        "absent": lambda folder: (folder / META).unlink(),
        "link of itself": lambda folder: ((folder / META).unlink(), os.symlink("meta.json", folder / META)),
        "link of a device": lambda folder: ((folder / META).unlink(), os.symlink("/dev/zero", folder / META)),
    }
    for name, place in special.items():
        yield from by_entry(READERS, "meta", f"a {name}", place, r"meta\.json: (no such file|not a regular file)")


def _meta(**fields: Any) -> Place:
    return put_file(META, json.dumps({"rows": {**ENTRY, **fields}}).encode())


def _entries() -> Iterator[Case]:
    for name, value in {"null": None, "a string": "rows.jsonl", "a list": [1], "a number": 5, "true": True}.items():
        place = put_file(META, json.dumps({"rows": value}).encode())
        yield from by_entry(READERS, "meta", f"entry is {name}", place, "must be an object with 'root' and")
    wrong: dict[str, tuple[Any, ...]] = {
        "root": (None, 5, ["images"], {}),
        "annotation": (None, 5, ["rows.jsonl"], {}, ""),
        "data_augment": ("true", 1, None, []),
        "max_dynamic_patch": (0, -1, 1.5, "12", True, 10**9, 10**400),
        "repeat_time": (-1, "2", None, True, [], float("nan"), float("inf"), -float("inf"), 10**400, 1e300),
        "length": (-1, "many", 1.5, True, [], "9" * 5000, 10**400),
    }
    for key, values in wrong.items():
        for value in values:
            shown = repr(value)[:20]
            yield from by_entry(READERS, "meta", f"{key} is {shown}", _meta(**{key: value}), f"'rows': '{key}' must be")


def _targets() -> Iterator[Case]:
    absent = ("absent", "/absent", "../absent", "x" * 300, "x" * 5000, "a\0b", "a\nb", "http://127.0.0.1:9/x", "~/x")
    for path in absent:
        name = f"{path[:30]!r} of {len(path)}"
        yield from by_entry(TRAIN, "meta", f"root {name}", _meta(root=path), "'rows': root .* is no folder at")
        yield from by_entry(READERS, "meta", f"annotation {name}", _meta(annotation=path), NO_FILE)
    for path in ("rows.jsonl", "/dev/null", "/dev/zero"):
        yield from by_entry(TRAIN, "meta", f"root {path}", _meta(root=path), "'rows': root .* is no folder at")
    for path in ("images", "/dev/zero", "/dev/stdin", "/", "."):
        yield from by_entry(READERS, "meta", f"annotation {path}", _meta(annotation=path), NO_FILE)
    for name, data in {"empty": b"", "blank lines": b"\n \n\r\n\t\n"}.items():
        yield from by_entry(TRAIN, "meta", f"annotation of {name}", put_file("data/rows.jsonl", data), "has no rows")
    yield Case("meta", "no row is left", "train", _meta(repeat_time=0), "refused", "no row is left")


def _valid() -> Iterator[Case]:
    named = {
        "unknown fields": _meta(repeat_tme=5, __class__="x"),
        "length of another file": _meta(length=10**17),
        "a name with a path in it": put_file(META, json.dumps({"../../x": ENTRY}).encode()),
        "a name of control characters": put_file(META, json.dumps({"\x1b[2J\n\0": ENTRY}).encode()),
        "an empty name": put_file(META, json.dumps({"": ENTRY}).encode()),
        "length in quotes": _meta(length="3"),
        "white space": all_of(put_file(META, b"\r\n\t" + json.dumps({"rows": ENTRY}, indent=9).encode() + b"\n\n")),
    }
    for name, place in named.items():
        yield from by_entry(dict.fromkeys(READERS, "used"), "meta", name, place, "")
