"""What the fuzzers call: one function per reader, from any bytes to nothing, or to an exception that is a finding.

Each target states what its reader promises for input of any kind: the exceptions that are documented, the values that
are defined, and the invariants of the results. `fuzz_readers.py` searches for bytes that break a promise, and
`tests/hostile` keeps those that once did.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from internvl_chat.records.jsonl import JsonlFile, WrongFileError
from internvl_chat.records.meta import DatasetSpec, read_meta
from internvl_chat.records.rows import PreferencePair, Prompt, RecordError, SampledResponse, Source, parse_row
from tools.reasoning_data_pipeline.answers.checker import (
    KNOWN_MODES,
    AnswerChecker,
    Outcome,
    Question,
    accepted_texts,
    anls,
)
from tools.reasoning_data_pipeline.answers.judging import JudgedAnswer, tidy_answer
from tools.reasoning_data_pipeline.answers.parsing import parse_answer
from tools.reasoning_data_pipeline.answers.reading import read
from tools.reasoning_data_pipeline.answers.rules import Scope, compare
from tools.reasoning_data_pipeline.answers.steps import ScoredStep, answer_prefix, split_steps
from tools.reasoning_data_pipeline.prompts.wording import VERSIONS

MEMORY = Path("/dev/shm")
MAX_REASON_CHARS = 2000
WHERE = Source("fuzzed.jsonl", 7)
MODES = sorted(KNOWN_MODES)
FIELDS = (
    *("image", "question", "chosen", "rejected", "answer", "question_orig", "response", "prompt_version"),
    *("step", "score", "num_mc_correct", "num_mc_total", "video", "more"),
)
FIELD_BYTES = 12  # that spell one field of a row
Reader = Callable[[dict[str, Any]], Any]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _check_reason(error: RecordError) -> None:
    """A reason names the place, is short enough for a log, and can be written as UTF-8."""
    assert (error.file, error.line) == WHERE, f"{error.file}:{error.line} is not {WHERE}"
    assert 0 < len(error.reason) < MAX_REASON_CHARS, f"a reason of {len(error.reason)} characters"
    error.reason.encode()


def rows(data: bytes) -> None:
    """Any line is a row or a RecordError; a record that was read is the same when its row is read again.

    Behind a NUL, which starts no line of JSON, the bytes spell the fields of a row: most changes to JSON only break it.
    """
    try:
        row = _spelled_row(data[1:]) if data[:1] == b"\0" else parse_row(data, *WHERE)
    except RecordError as error:
        _check_reason(error)
        return
    _read_records(row)
    _read_steps(row)


def _spelled_row(data: bytes) -> dict[str, Any]:
    chunks = (data[start : start + FIELD_BYTES] for start in range(0, len(data), FIELD_BYTES))
    return {FIELDS[chunk[0] % len(FIELDS)]: _spelled_value(chunk[1:]) for chunk in chunks}


def _spelled_value(data: bytes) -> Any:
    text, number = _text(data[1:]), int.from_bytes(data[1:5], "big", signed=True)
    parts = [part or None for part in text.split(",")]
    values = (text, text, text, "", None, True, number, number / 7, parts, {"key": text})
    return values[data[0] % len(values)] if data else None


def _read_records(row: dict[str, Any]) -> None:
    readers: tuple[Reader, ...] = (
        lambda row: PreferencePair.from_row(row, WHERE),
        lambda row: PreferencePair.from_row(row, WHERE, allow_no_rejected=True),
        lambda row: Prompt.from_row(row, WHERE, allow_no_answer=True),
        lambda row: SampledResponse.from_row(row, WHERE),
    )
    for reader in readers:
        try:
            record = reader(row)
        except RecordError as error:
            _check_reason(error)
            continue
        assert reader(parse_row(orjson.dumps(record.to_row()), *WHERE)) == record, f"{record!r} changed on its way"


def _read_steps(row: dict[str, Any]) -> None:
    try:
        step = ScoredStep.from_row(row, WHERE)
    except RecordError as error:
        _check_reason(error)
        return
    assert 0 <= step.score <= 1 and step.label(0.5) in ("+", "-", None), f"{step!r} is no scored step"


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def _scratch(name: str, data: bytes) -> Path:
    """A file with these bytes, in memory where the system allows it."""
    path = Path(_folder().name, name)
    path.write_bytes(data)
    return path


def lines(data: bytes) -> None:
    """A file of any bytes gives its lines that are not blank, with their numbers, by a new index and by a kept one.

    What is no file of rows by its first bytes is an error that names it instead.
    """
    split = data.split(b"\n")
    expected = [(line.rstrip(b"\r"), number) for number, line in enumerate(split, 1) if line.strip()]
    path = _scratch("rows.jsonl", data)
    for _ in range(2):
        try:
            file = JsonlFile(path, cache_dir=path.parent)
        except WrongFileError as error:
            assert str(path) in str(error)
            return
        found = [file[row] for row in range(len(file))]
        assert [(line, number) for line, number in found if line.strip()] == expected, f"{found} != {expected}"
        assert file.row_bytes().sum() <= len(data) and len(file.row_bytes()) == len(file)
    for made in path.parent.iterdir():
        made.unlink()


def metas(data: bytes) -> None:
    """A meta.json of any bytes is a list of data sets or a ValueError that names the file."""
    path = _scratch("meta.json", data)
    try:
        specs = read_meta(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < MAX_REASON_CHARS, f"unclear: {error}"
        str(error).encode()
        return
    assert specs
    for spec in specs:
        again = DatasetSpec.from_entry(spec.name, json.loads(json.dumps(spec.to_entry())), "meta.json")
        assert again == spec, f"{spec} became {again}"


def responses(data: bytes) -> None:
    """A response in any prompt version has an answer that stands in it, or a reason why it has none."""
    version, text = (*VERSIONS, "other")[data[0] % 7] if data else "en", _text(data[1:])
    parsed = parse_answer(text, version)
    assert (parsed.text is None) != (parsed.error == ""), f"{parsed} is neither an answer nor an error"
    assert len(parsed.error) < MAX_REASON_CHARS
    if parsed.text is not None:
        assert parsed.text and parsed.text in text, f"{parsed.text!r} is not in the response"
        for outcome, gold in (("correct", parsed.text), ("correct", 5), ("wrong", parsed.text)):
            judged = JudgedAnswer(text, parsed.text, outcome, "same text")
            tidy = tidy_answer(judged, version, gold)
            assert outcome == "correct" or tidy == text, f"a wrong answer was rewritten: {tidy!r}"
            assert parse_answer(tidy, version).text, f"tidied, {tidy!r} has no answer"
    assert "\n\n".join(split_steps(text, 3)) == text
    assert text.startswith(answer_prefix(text, 0.5))


def answers(data: bytes) -> None:
    """Any two answers compare to a defined finding, each is itself, and numbers compare alike in both directions."""
    first, _, second = _text(data).partition("\0")
    for scope in (Scope(), Scope(relaxed=True)):
        for one, other in ((first, second), (second, first)):
            finding = compare(read(one), read(other), scope)
            assert finding.agree in (True, False, None) and finding.rule, f"{finding} is not defined"
        assert compare(read(first), read(first), scope).agree is True, f"{first!r} is not itself"
    there, back = (compare(read(one), read(other)) for one, other in ((first, second), (second, first)))
    if there.rule == back.rule and there.rule in ("number", "spelling", "same text", "date, time or ratio"):
        assert there.agree == back.agree, f"{first!r} and {second!r}: {there} one way, {back} the other"
    assert 0 <= anls(first, (second,)) <= 1


class Algebra:
    """The whole checker, algebra in its worker processes included; made at the first call."""

    def __init__(self, deadline_s: float = 1.0) -> None:
        """Take the seconds that algebra may need for one answer."""
        self._deadline_s = deadline_s
        self._checker: AnswerChecker | None = None

    def __call__(self, data: bytes) -> None:
        """Any answer has a defined verdict, the same when it is asked again but for one that time decided."""
        if self._checker is None:
            self._checker = AnswerChecker(deadline_s=self._deadline_s)
        predicted, _, gold = _text(data[1:]).partition("\0")
        modes = (MODES[data[0] % len(MODES)],) if data else ()
        verdict = self._checker.check(predicted, gold, modes)
        assert isinstance(verdict.outcome, Outcome) and verdict.outcome is not Outcome.FORMAT_ERROR, f"{verdict}"
        assert verdict.predicted == predicted and verdict.rule, f"{verdict}"
        [again] = self._checker.check_many([Question(predicted, gold, modes)])
        assert again == verdict or Outcome.UNDECIDED in (again.outcome, verdict.outcome), f"{verdict}, then {again}"
        assert len(accepted_texts([gold, [gold], None])) == 1


TARGETS: dict[str, Callable[[bytes], None]] = {
    "rows": rows,
    "lines": lines,
    "metas": metas,
    "responses": responses,
    "answers": answers,
    "algebra": Algebra(),
}
