"""Malformed JSON lines and fields, through every reader of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .case import VICTIM, Case, Outcome, base_row, by_entry, put_line, put_row

TRAIN: dict[str, Outcome] = {"train": "skipped", "validate": "skipped"}
PAIRS: dict[str, Outcome] = {**TRAIN, "view": "skipped"}
PROMPTS: dict[str, Outcome] = {"correctness": "skipped", "visualprm": "skipped", "evaluate": "refused"}
SAMPLED: dict[str, Outcome] = {"pairs": "skipped"}
SCORED: dict[str, Outcome] = {"prm_pairs": "skipped"}
ALL: dict[str, Outcome] = {**PAIRS, **PROMPTS, "dropout": "skipped", **SAMPLED, **SCORED}
MEGABYTES = 10_000_000
WHOLE = json.dumps(base_row(VICTIM)).encode()


def cases() -> Iterator[Case]:
    """All cases of rows."""
    yield from _no_json()
    yield from _no_object()
    yield from _fields()
    yield from _steps()
    yield from _videos()
    yield from _large()


def _no_json() -> Iterator[Case]:
    named = {
        "torn after 1 byte": WHOLE[:1],
        "torn in the middle": WHOLE[: len(WHOLE) // 2],
        "torn before its end": WHOLE[:-1],
        "without its start": WHOLE[5:],
        "trailing comma": WHOLE + b",",
        "trailing comma inside": WHOLE[:-1] + b",}",
        "single quotes": WHOLE.replace(b'"', b"'"),
        "NaN": WHOLE[:-1] + b', "weight": NaN}',
        "Infinity": WHOLE[:-1] + b', "weight": Infinity}',
        "-Infinity": WHOLE[:-1] + b', "weight": -Infinity}',
        "number too large for a float": WHOLE[:-1] + b', "weight": 1e999}',
        "integer of 5000 digits": WHOLE[:-1] + b', "weight": ' + b"9" * 5000 + b"}",
        "hexadecimal number": WHOLE[:-1] + b', "weight": 0x10}',
        "comment": WHOLE[:-1] + b" // note\n}".replace(b"\n", b" "),
        "two rows on one line": WHOLE + b" " + WHOLE,
        "text behind it": WHOLE + b" end",
        "lone surrogate": WHOLE.replace(b"two", rb"\ud800"),
        "low surrogate": WHOLE.replace(b"two", rb"\udfff"),
        "surrogate as bytes": WHOLE.replace(b"two", b"\xed\xa0\x80"),
        "no UTF-8": WHOLE.replace(b"two", b"\xff\xfe"),
        "Latin-1": WHOLE.replace(b"two", "zwölf".encode("latin-1")),
        "overlong UTF-8": WHOLE.replace(b"two", b"\xc0\xaf"),
        "UTF-16": json.dumps(base_row(VICTIM)).encode("utf-16").replace(b"\n", b""),
        "byte order mark": b"\xef\xbb\xbf" + WHOLE,
        "NUL byte": WHOLE.replace(b"two", b"\0"),
        "NUL bytes only": b"\0" * 500,
        "raw tab in a string": WHOLE.replace(b"two", b"\t"),
        "raw escape in a string": WHOLE.replace(b"two", b"\x1b[31m"),
        "bad escape": WHOLE.replace(b"two", rb"\x41"),
        "nested 100,000 deep": b'{"image": ' + b"[" * 100_000,
        "nested 5,000 deep and closed": WHOLE[:-1] + b', "more": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "objects nested 50,000 deep": b'{"a":' * 50_000,
        "key without a value": WHOLE[:-1] + b', "weight"}',
        "key that is no string": WHOLE[:-1] + b", 5: 5}",
        "YAML": b"question: How many?",
        "CSV": b"a.png,How many?,5,6",
        "string of 10 MB that does not end": b'{"question": "' + b"x" * MEGABYTES,
    }
    for name, line in named.items():
        yield from by_entry(ALL, "row", name, put_line(line), r"not a JSON row: \S+")


def _no_object() -> Iterator[Case]:
    named = {"list": b"[" + WHOLE + b"]", "number": b"5", "string": b'"row"', "null": b"null", "true": b"true"}
    for name, line in named.items():
        yield from by_entry(ALL, "row", f"a {name} in place of an object", put_line(line), "a row is a JSON object")
    yield from by_entry(ALL, "row", "empty object", put_line(b"{}"), r"field '\w+' (is missing|must be)")
    for key in ("question", "chosen", "image"):
        doubled = WHOLE[:-1] + f', "{key}": "other.png"}}'.encode()
        yield from by_entry(ALL, "row", f"{key} twice", put_line(doubled), rf"names given twice: \['{key}'\]")


WRONG: dict[str, Any] = {"null": None, "a number": 5, "a list": ["x"], "an object": {"x": 1}, "true": True}


def _wrong(key: str, entries: dict[str, Outcome], kinds: dict[str, Any]) -> Iterator[Case]:
    """A field that is missing, or of each of these wrong kinds."""
    says = rf"field '{key}' (is missing|must be|must list)"
    for name, value in kinds.items():
        yield from by_entry(entries, "row", f"{key} is {name}", put_row({key: value}), says)


def _fields() -> Iterator[Case]:
    readers = {
        "question": ALL,
        "chosen": PAIRS,
        "rejected": TRAIN,
        "response": SAMPLED,
        "prompt_version": SAMPLED,
        "question_orig": SAMPLED,
    }
    for key, entries in readers.items():
        yield from by_entry(entries, "row", f"no {key}", put_row({}, without=[key]), f"field '{key}' is missing")
        yield from _wrong(key, entries, WRONG)
    some = {key: WRONG[key] for key in ("a number", "a list", "an object")}
    yield from _wrong("chosen", {"dropout": "skipped"}, some)
    answers: dict[str, Outcome] = {**PROMPTS, **SAMPLED}
    yield from by_entry(answers, "row", "no answer", put_row({}, without=["answer"]), "'answer' is missing or null")
    yield from by_entry(answers, "row", "answer is an object", put_row({"answer": {"x": 1}}), "field 'answer' must be")
    images = {
        "a number": 5,
        "true": True,
        "an object": {"path": "clean.png"},
        "a list of numbers": [1, 2],
        "a list with null": ["clean.png", None],
        "a list with an empty path": ["clean.png", ""],
        "a list of lists": [["clean.png"]],
    }
    yield from _wrong("image", ALL, images)
    for blank in ("", "   ", "\n\t"):
        yield from by_entry(ALL, "row", f"question is {blank!r}", put_row({"question": blank}), "'question' is empty")
        fields = {"chosen": "", "rejected": blank or "x"} if not blank else {"chosen": "x", "rejected": ""}
        yield from by_entry(TRAIN, "row", f"empty answer beside {blank!r}", put_row(fields), "an answer is empty")
    equal = put_row({"rejected": base_row(VICTIM)["chosen"]})
    yield from by_entry(TRAIN, "row", "equal answers", equal, "are the same")
    says = "images or a video, not both|not shown to a sampling engine"
    yield from by_entry(ALL, "row", "image and video", put_row({"video": "a.mp4"}), says)


def _steps() -> Iterator[Case]:
    step = {"step": "s", "score": 0.5, "num_mc_correct": 1, "num_mc_total": 2}
    named: dict[str, Any] = {
        "null": None,
        "a string": "two steps",
        "empty": [],
        "numbers": [1, 2],
        "without a text": [{**step, "step": None}],
        "of a score of 2": [{**step, "score": 2}],
        "of a negative score": [{**step, "score": -0.1}],
        "of a score in words": [{**step, "score": "half"}],
        "of more right than asked": [{**step, "num_mc_correct": 3}],
        "of a negative count": [{**step, "num_mc_total": -1}],
        "of half a count": [{**step, "num_mc_total": 2.5}],
    }
    for name, value in named.items():
        says = "'steps_with_score' must be|a step must be|a step's 'score' must be|must hold"
        yield from by_entry(SCORED, "row", f"steps {name}", put_row({"steps_with_score": value}), says)


def _videos() -> Iterator[Case]:
    named: dict[str, dict[str, Any]] = {
        "is a number": {"video": 5},
        "is a list": {"video": ["a.mp4"]},
        "is absent": {"video": "a.mp4"},
        "leads out": {"video": "../../outside/secret.png"},
        "is a URL": {"video": "https://example.com/a.mp4"},
        "is a picture": {"video": "clean.png"},
        "is text": {"video": "../rows.jsonl"},
        "with a clip in words": {"video": "a.mp4", "clip": "all"},
        "with a clip of NaN": {"video": "a.mp4", "clip": [0, "NaN"]},
        "with a clip that ends before it starts": {"video": "a.mp4", "clip": [5, 1]},
        "with a clip of one side": {"video": "a.mp4", "clip": [5]},
    }
    for name, fields in named.items():
        says = "field 'video' must be|field 'clip' must be|no such file|leads out of its root|URLs are not read|video"
        yield from by_entry(TRAIN, "row", f"video {name}", put_row(fields, without=["image"]), says)


def _large() -> Iterator[Case]:
    words = "two and three " * (MEGABYTES // 14)
    word = "x" * MEGABYTES
    for name, text in {"words": words, "one word": word}.items():
        for key in ("question", "chosen", "rejected"):
            place = put_row({key: text})
            yield from by_entry(TRAIN, "row", f"{key} of 10 MB, {name}", place, "max_seq_length is 512")
        asked = put_row({"question": text})
        yield Case("row", f"question of 10 MB, {name}", "evaluate", asked, "refused", "session-len|max_seq_length")
        yield from by_entry(
            {"correctness": "used", "dropout": "used", "pairs": "used", "prm_pairs": "used"},
            "row",
            f"every text of 10 MB, {name}",
            put_row(dict.fromkeys(("question_orig", "answer", "chosen", "response"), text)),
            "",
        )
    yield from by_entry(TRAIN, "row", "image path of 10 MB", put_row({"image": word}), "no such file")
    images = put_row({"image": ["clean.png"] * 10_000})
    yield from by_entry(TRAIN, "row", "10,000 images", images, "max_seq_length is 512")
    many = {f"key {number}": number for number in range(100_000)}
    yield from by_entry(TRAIN, "row", "100,000 more fields and no question", put_row(many, ["question"]), "is missing")
    yield from by_entry(TRAIN, "row", "a key of 10 MB and no question", put_row({word: 1}, ["question"]), "is missing")
    used: dict[str, Outcome] = dict.fromkeys(ALL, "used")
    yield from by_entry(used, "row", "carriage return at its end", put_line(WHOLE + b"\r"), "")
    yield from by_entry(used, "row", "white space around it", put_line(b"  \t" + WHOLE + b"   "), "")
    yield from by_entry(used, "row", "unknown fields", put_row({"id": 5, "__class__": "x", "": None}), "")
