"""The row formats of MMPR-style JSONL files, each written down once and checked at the door.

A line becomes a dict (`parse_row`), a dict becomes a typed, frozen record (`PreferencePair.from_row` and its siblings),
a record becomes a row again (`to_row`: unknown keys kept, the `image` field in the form in which it came). Whatever is
wrong raises `RecordError` with file, line and reason, so that a caller can skip the row and write down why.

    where = Source("pairs.jsonl", 1)
    pair = PreferencePair.from_row(parse_row(line, *where), where)

This module loads without torch: the data pipelines use it too.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import orjson

from internvl_chat.records.picture_keys import with_own_keys

FEW_KEYS = 64  # of rows as people write them
PATH_CHARS = 300  # of a path, in messages
OTHER_REJECTED = ("rejected", "rejected_response", "rejected_messages", "non_preferred_output")  # by other trainers
ImageForm = Literal["absent", "null", "empty", "str", "list"]


class Source(NamedTuple):
    """Where a row stands: `file` as the user named it, `line` counted from 1."""

    file: str
    line: int


class RecordError(ValueError):
    """A row that cannot be used.

    Attributes:
        file: as the user named it.
        line: from 1.
        reason: names the value and the cure.
        fault: name of the kind of fault, by which `tools/validate.py` counts.
    """

    def __init__(self, file: str, line: int, reason: str, fault: str = "unusable_row") -> None:
        super().__init__(file, line, reason, fault)
        self.file, self.line, self.reason, self.fault = str(file), line, reason, fault

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def parse_row(line: bytes, file: str, line_no: int) -> dict[str, Any]:
    """One JSONL line (UTF-8, with or without its line end) to a dict; RecordError unless it is one JSON object.

    NaN and Infinity, which Python's json.dumps writes, are read as floats: no field of ours takes them, in others they
    do no harm.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        row = _row_with_nan(line)
        if row is None:
            raise RecordError(file, line_no, f"not a JSON row: {_json_reason(line, error)}", "bad_json") from error
    if not isinstance(row, dict):
        kind = type(row).__name__
        reason = f"a row is a JSON object {{...}}, this line holds a {kind}: {shown(row)}"
        raise RecordError(file, line_no, reason, "bad_json")
    _check_keys(row, line, file, line_no)
    return row


def _row_with_nan(line: bytes) -> Any:
    """What a line says that only NaN or Infinity keep from being JSON; None where there is more to it."""
    if b"NaN" not in line and b"Infinity" not in line:
        return None
    try:
        row = json.loads(line)
        orjson.dumps(row)  # halves of surrogate pairs and numbers of any size are no more welcome than elsewhere
    except (ValueError, TypeError, RecursionError):
        return None
    return row


def _check_keys(row: Mapping[str, Any], line: bytes, file: str, line_no: int) -> None:
    """Raise RecordError where a key of the row is given twice: the parser takes the last and drops the others."""
    # The quick look scans the line once per key. A key may stand there again as a value, or inside another object.
    if len(row) <= FEW_KEYS and not any(line.count(b'"%b"' % key.encode()) > 1 for key in row):
        return
    try:
        pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    except RecursionError as error:
        raise RecordError(file, line_no, "not a JSON row: nested too deeply", "bad_json") from error
    if doubled := sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1):
        raise RecordError(file, line_no, f"names given twice: {shown(doubled)}; keep one of each", "bad_json")


def _json_reason(line: bytes, error: orjson.JSONDecodeError) -> str:
    """The reason in the words of the person who has to mend the line."""
    text = line.strip()
    if text.startswith(b"\xef\xbb\xbf"):
        return "it starts with a UTF-8 byte order mark, save the file as UTF-8 without BOM"
    if "trailing comma" in error.msg or text.endswith(b"},"):
        return f"trailing comma at column {error.colno} (remove it; a row ends with }} and nothing after it)"
    if "surrogate in string" in error.msg:
        return f"half of a surrogate pair (\\ud800-\\udfff) in a string, column {error.colno}"
    if "UTF-8" in error.msg:
        return "not valid UTF-8, convert the file to UTF-8"
    near = shown(text[max(0, error.pos - 20) : error.pos + 20].decode("utf-8", "replace"))
    return f"{error.msg} at column {error.colno}, near {near} (single quotes are not JSON)"


def shown(value: object, limit: int = 80) -> str:
    """repr(value), cut to `limit` characters: for error messages about values of any size."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def shown_path(path: str) -> str:
    """A path from a row, for a message: as it is where it is short and has nothing in it that a terminal obeys."""
    return path if path.isprintable() and len(path) <= PATH_CHARS else shown(path, PATH_CHARS)


def own_keys(row: Mapping[str, Any], where: Source) -> Mapping[str, Any]:
    """The row with pictures of other names under ours; RecordError where nobody can tell what is meant."""
    if row.get("image") or row.get("video"):
        return row
    try:
        return with_own_keys(row)
    except ValueError as error:
        raise RecordError(*where, str(error), "picture_key") from error


def is_blank(answer: str) -> bool:
    """Whether an answer has nothing that can be seen: only spaces, or characters without width."""
    return not any(char.isprintable() and not char.isspace() for char in answer)


def _text(row: Mapping[str, Any], key: str, where: Source) -> str:
    """The string under `key`; RecordError when it is absent or of another type."""
    if key not in row:
        reason = f"field {key!r} is missing; the row has {shown(sorted(row), 200)}{_layout_cure(row)}"
        raise RecordError(*where, reason, "missing_field")
    if not isinstance(row[key], str):
        reason = f"field {key!r} must be a string, not {type(row[key]).__name__}: {shown(row[key])}"
        raise RecordError(*where, reason, "wrong_type")
    return row[key]


def _layout_cure(row: Mapping[str, Any]) -> str:
    """What to do with a row that is laid out otherwise, "" of one that only lacks a field."""
    if "question" not in row and not row.keys().isdisjoint(OTHER_REJECTED):
        return "; mpo import --rows FILE --out DIR makes rows of those of other trainers"
    return "; conversations of judged steps train with --loss_type prm" if "conversations" in row else ""


def _optional_text(row: Mapping[str, Any], key: str, where: Source) -> str | None:
    """As `_text`, with None for an absent or null field."""
    return None if row.get(key) is None else _text(row, key, where)


def _question(row: Mapping[str, Any], where: Source) -> str:
    question = _text(row, "question", where)
    if not question.strip():
        raise RecordError(*where, f"field 'question' is empty: {question!r}", "empty_question")
    return question


def _no_video_or_history(row: Mapping[str, Any], where: Source) -> None:
    """Raise RecordError for a row that a sampling engine cannot be asked with."""
    for name, kind in (("video", "videos are"), ("history", "earlier turns are")):
        if row.get(name):
            reason = f"{kind} read in training, not shown to a sampling engine: field {name!r} is {shown(row[name])}"
            raise RecordError(*where, reason)


def _history(row: Mapping[str, Any], where: Source) -> tuple[Turn, ...]:
    """The turns before the question, () where there are none."""
    value = row.get("history")
    if value is None:
        return ()
    is_list = isinstance(value, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in value)
    if not is_list or not all(isinstance(text, str) and text.strip() for turn in value for text in turn):
        reason = f"field 'history' must list [question, answer] pairs of texts, not {shown(value)}"
        raise RecordError(*where, reason, "wrong_type")
    return tuple(Turn(*turn) for turn in value)


def _video(row: Mapping[str, Any], where: Source) -> VideoClip | None:
    """The video of a row, None where there is none."""
    path, clip = row.get("video"), row.get("clip")
    if path is None or path == "":
        return None
    if not isinstance(path, str):
        raise RecordError(*where, f"field 'video' must be one path, not {shown(path)}", "wrong_type")
    if row.get("image"):
        raise RecordError(*where, "a row has images or a video, not both: 'image' and 'video' are given", "wrong_type")
    if clip is None:
        return VideoClip(path, None)
    if not (isinstance(clip, list) and len(clip) == 2 and all(type(value) in (int, float) for value in clip)):
        raise RecordError(*where, f"field 'clip' must be [start, end] in seconds, not {shown(clip)}", "wrong_type")
    if not 0 <= clip[0] < clip[1]:
        raise RecordError(*where, f"field 'clip' must be [start, end], 0 <= start < end, not {clip}", "wrong_type")
    return VideoClip(path, (float(clip[0]), float(clip[1])))


def read_images(row: Mapping[str, Any], where: Source) -> tuple[tuple[str, ...], ImageForm]:
    """Image paths in order, () for a text-only row, and the form in which the row wrote them."""
    if "image" not in row:
        return (), "absent"
    value = row["image"]
    if value is None or value == "":
        return (), "null" if value is None else "empty"
    if isinstance(value, str):
        return (value,), "str"
    if not isinstance(value, list):
        problem = f"not {type(value).__name__}: {shown(value)}"
        reason = f"field 'image' must be a string, a list of strings or null, {problem}"
        raise RecordError(*where, reason, "wrong_type")
    for path in value:
        if not isinstance(path, str) or not path:
            raise RecordError(*where, f"field 'image' must list non-empty strings, not {shown(path)}", "wrong_type")
    return tuple(value), "list"


def _image_field(images: tuple[str, ...], form: ImageForm | None) -> dict[str, Any]:
    """{} or {"image": ...}: the form in which the row came where it still fits, else the plainest one."""
    if not images:
        empty: dict[str, Any] = {"null": None, "empty": "", "list": []}
        return {"image": empty[form]} if form in empty else {}
    return {"image": images[0] if len(images) == 1 and form != "list" else list(images)}


class VideoClip(NamedTuple):
    """The video of a row: its `path`, and the part of it that counts, `clip`, from and to in seconds; None is all."""

    path: str
    clip: tuple[float, float] | None


class Turn(NamedTuple):
    """An earlier turn of a conversation: `question` and `answer`."""

    question: str
    answer: str


class _Record:
    """What the row types share: the keys that are not theirs."""

    KEYS: ClassVar[frozenset[str]]

    @classmethod
    def _extra(cls, row: Mapping[str, Any]) -> dict[str, Any]:
        """Unknown keys of a row, in their order."""
        return {key: value for key, value in row.items() if key not in cls.KEYS}


@dataclass(frozen=True)
class PreferencePair(_Record):
    """A training row: {"image": str | [str, ...] | absent, "question", "chosen", "rejected"}; other keys in `extra`.

    `image` holds the paths in order, () for a text-only row. `rejected` is None only where the reader allowed it:
    DropoutNTP prompts and rows of supervised fine-tuning. A row may have {"video": str, "clip": [start, end]} instead
    of images, and {"history": [[question, answer], ...]} before its question; these stay in `extra` too, as they came.
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"image", "question", "chosen", "rejected"})

    image: tuple[str, ...]
    question: str
    chosen: str
    rejected: str | None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    image_form: ImageForm | None = field(default=None, compare=False, repr=False, kw_only=True)
    video: VideoClip | None = field(default=None, compare=False, kw_only=True)
    history: tuple[Turn, ...] = field(default=(), compare=False, kw_only=True)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: Source, *, allow_no_rejected: bool = False) -> PreferencePair:
        """Check a parsed row. RecordError when a field is missing or of a wrong type, or the question is empty.

        allow_no_rejected: an absent or null `rejected` is legal and becomes None.
        """
        row = own_keys(row, where)
        images, form = read_images(row, where)
        question, chosen = _question(row, where), _text(row, "chosen", where)
        rejected = _optional_text(row, "rejected", where) if allow_no_rejected else _text(row, "rejected", where)
        video, history = _video(row, where), _history(row, where)
        extra = cls._extra(row)
        return cls(images, question, chosen, rejected, extra, image_form=form, video=video, history=history)

    @property
    def conversation(self) -> str:
        """All texts before the judged answers, a line each."""
        return "\n".join([*(text for turn in self.history for text in turn), self.question])

    def to_row(self) -> dict[str, Any]:
        """The JSON row; a `rejected` of None is written as null."""
        own = {"question": self.question, "chosen": self.chosen, "rejected": self.rejected}
        return {**_image_field(self.image, self.image_form), **own, **self.extra}


@dataclass(frozen=True)
class Prompt(_Record):
    """A question to be answered: {"image", "question", "answer"} and any other keys in `extra`.

    `answer` is the ground truth, any JSON value but null or an object: data sets write numbers, lists and booleans too.
    It is None only where the reader allowed it (DropoutNTP prompts, whose `chosen` may still have to be generated).
    """

    KEYS: ClassVar[frozenset[str]] = frozenset({"image", "question", "answer"})

    image: tuple[str, ...]
    question: str
    answer: str | int | float | bool | list[Any] | None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    image_form: ImageForm | None = field(default=None, compare=False, repr=False, kw_only=True)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: Source, *, allow_no_answer: bool = False) -> Prompt:
        """Check a parsed row. RecordError when a field is missing or of a wrong type, or the question is empty."""
        row = own_keys(row, where)
        _no_video_or_history(row, where)
        images, form = read_images(row, where)
        question, answer = _question(row, where), _answer(row, where, allow_no_answer)
        return cls(images, question, answer, cls._extra(row), image_form=form)

    def to_row(self) -> dict[str, Any]:
        """The JSON row; an `answer` of None is left out."""
        answer = {} if self.answer is None else {"answer": self.answer}
        return {**_image_field(self.image, self.image_form), "question": self.question, **answer, **self.extra}


def _answer(row: Mapping[str, Any], where: Source, allow_none: bool) -> Any:
    answer = row.get("answer")
    if answer is None and not allow_none:
        raise RecordError(*where, f"field 'answer' is missing or null; the row has {shown(sorted(row), 200)}")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise RecordError(*where, f"field 'answer' must be a value to compare with, not {answer}")
    if isinstance(answer, dict):
        kinds = "a string, number, boolean or list"
        raise RecordError(*where, f"field 'answer' must be {kinds}, not an object: {shown(answer)}")
    return answer


@dataclass(frozen=True)
class SampledResponse(_Record):
    """One sampled answer: the prompt's fields plus `response`.

    `question` is as asked, `question_orig` as in the prompt row; `prompt_version` names the prompt style (en, zh,
    en_v2, zh_v2, en_r1, zh_r1, ...).
    """

    KEYS: ClassVar[frozenset[str]] = Prompt.KEYS | {"question_orig", "response", "prompt_version"}

    image: tuple[str, ...]
    question: str
    question_orig: str
    answer: str | int | float | bool | list[Any] | None
    response: str
    prompt_version: str
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    image_form: ImageForm | None = field(default=None, compare=False, repr=False, kw_only=True)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: Source) -> SampledResponse:
        """Check a parsed row. RecordError when a field is missing or of a wrong type, or the question is empty."""
        row = own_keys(row, where)
        _no_video_or_history(row, where)
        images, form = read_images(row, where)
        return cls(
            image=images,
            question=_question(row, where),
            question_orig=_text(row, "question_orig", where),
            answer=_answer(row, where, allow_none=False),
            response=_text(row, "response", where),
            prompt_version=_text(row, "prompt_version", where),
            extra=cls._extra(row),
            image_form=form,
        )

    def to_row(self) -> dict[str, Any]:
        """The JSON row, fields in the order of the documented output."""
        own = {
            "question": self.question,
            "answer": self.answer,
            "question_orig": self.question_orig,
            "response": self.response,
            "prompt_version": self.prompt_version,
        }
        return {**_image_field(self.image, self.image_form), **own, **self.extra}
