"""Sampled answers, question by question: neighbouring rows of one question are scored together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import Prompt, RecordError, Source, parse_row, shown


class SampledAnswers(NamedTuple):
    """What a row gives: its prompt, its texts, and all other fields."""

    prompt: Prompt
    responses: list[str]
    fields: dict[str, Any]


@dataclass
class AnswersOfQuestion:
    """Rows of one question that follow each other in a file.

    Attributes:
        rows: their places.
        num_answers: answers that they hold.
        reason: why the one row here cannot be used; "" where all can.
    """

    rows: list[int] = field(default_factory=list)
    num_answers: int = 0
    reason: str = ""


def read_answers(row: Mapping[str, Any], where: Source) -> SampledAnswers:
    """The answers of a row: its `response`, or all of its `responses`.

    Raises:
        RecordError: the row is none of these, or its question or an answer is unusable.
    """
    prompt = Prompt.from_row(row, where, allow_no_answer=True)
    responses = row.get("responses") if "responses" in row else [row.get("response")]
    if not isinstance(responses, list) or not responses or not all(isinstance(text, str) for text in responses):
        found = shown(row["responses"] if "responses" in row else row.get("response"))
        raise RecordError(*where, f"a row has a 'response', or a list of 'responses', not {found}")
    return SampledAnswers(prompt, responses, {name: value for name, value in row.items() if name != "responses"})


class AnswerFile:
    """The rows of a file of answers, grouped; they are read again when they are asked for.

    Attributes:
        path: the file.
        keys: of the groups; they change with the rows.
        sizes: answers of each group.
    """

    def __init__(self, path: Path) -> None:
        """Look at all rows once.

        Raises:
            FileNotFoundError, WrongFileError: no such file, or no JSONL.
        """
        self.path, self._lines = path, JsonlFile(path)
        self._groups = {self._key(group): group for group in self._find_groups()}
        self.keys = list(self._groups)
        self.sizes = [max(1, group.num_answers) for group in self._groups.values()]

    def group(self, key: str) -> AnswersOfQuestion:
        """The group of this key."""
        return self._groups[key]

    def where(self, key: str) -> Source:
        """File and line of the first row of a group."""
        return Source(str(self.path), self._lines.line_number(self._groups[key].rows[0]))

    def answers(self, key: str) -> list[SampledAnswers]:
        """The rows of a usable group."""
        return [self._read(row) for row in self._groups[key].rows]

    def _read(self, row: int) -> SampledAnswers:
        line, number = self._lines[row]
        where = Source(str(self.path), number)
        return read_answers(parse_row(line, *where), where)

    def _find_groups(self) -> Iterator[AnswersOfQuestion]:
        """The groups in the order of their first rows; a bad row is one of its own."""
        asked, group = None, AnswersOfQuestion()
        for row in range(len(self._lines)):
            try:
                found = self._read(row)
            except RecordError as error:
                yield AnswersOfQuestion([row], reason=error.reason)
                continue
            question = (found.prompt.question, found.prompt.image)
            if group.rows and question != asked:
                yield group
                group = AnswersOfQuestion()
            asked = question
            group.rows.append(row)
            group.num_answers += len(found.responses)
        if group.rows:
            yield group

    def _key(self, group: AnswersOfQuestion) -> str:
        digest = xxhash.xxh3_64()
        for row in group.rows:
            digest.update(self._lines[row][0])
        return f"{self._lines.line_number(group.rows[0])}-{digest.hexdigest()}"
