"""Examples that the page offers: questions whose right answer is known, first of all ones that an evaluation changed.

A file is either an evaluation's (`tools/evaluate.py --against .. --out x.json`: x.json or x.answers.jsonl), of which
the questions are taken whose first answer became right or no longer is, or a JSONL of rows question, image, answer.
An evaluation's rows do not name their data set: their answers are judged by the checks for data sets at large.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import Prompt, RecordError, Source, parse_row
from tools.asking.turns import MAX_IMAGES, AskedTurn
from tools.evaluation.answering import judge
from tools.evaluation.questions import AskedQuestion, direct, read_questions
from tools.reasoning_data_pipeline.answers.checker import TYPED_CHECKS
from tools.reasoning_data_pipeline.answers.options import spelled_options
from tools.reasoning_data_pipeline.prompts.wording import (
    AS_TYPED,
    IMAGE_PLACEHOLDER,
    split_placeholders,
    unasked,
    version_for,
)
from tools.run_report.answers import KINDS, change_of, gold_text

MAX_EXAMPLES = 50


@dataclass(frozen=True)
class Example:
    """A question with a known answer.

    Attributes:
        asked: the question, its images and what is right.
        question: as typed into the page.
        version: prompt version that the page puts it in, or AS_TYPED.
        kind: how the evaluation's answers changed; "" where that is not known.
    """

    asked: AskedQuestion
    question: str
    version: str
    kind: str = ""

    @property
    def gold(self) -> str:
        """The right answer as text."""
        return gold_text(self.asked.prompt.answer)

    def verdicts(self, turn: AskedTurn, answers: Sequence[str]) -> list[str]:
        """The outcome of each answer to a turn, as `Outcome`; [] where it asked something else."""
        if turn.question.strip() != self.question.strip():
            return []
        version = None if turn.version == AS_TYPED else turn.version
        [answered] = judge([replace(self.asked, version=version)], [answers])
        return [outcome.value for outcome in answered.outcomes]


@dataclass(frozen=True)
class Examples:
    """What the page lists, and what it was chosen from, in a sentence."""

    told: str = ""
    listed: tuple[Example, ...] = ()


NONE = Examples()


def read_examples(path: Path, version: str) -> Examples:
    """The examples of a file; rows that are not from an evaluation are put in the words of `version`,
    Chinese ones where the file's name has `_zh_`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no rows, or one that is not usable.
    """
    file = path.with_suffix(".answers.jsonl") if path.suffix == ".json" else path
    if path.suffix == ".json" and not file.is_file():
        what = f"no {file.name} beside it" if path.is_file() else "no such file"
        raise FileNotFoundError(
            f"{path}: {what}; --examples names what tools/evaluate.py --out wrote, or a JSONL of rows"
        )
    lines = JsonlFile(file)
    rows = [
        (Source(str(file), no), parse_row(line, str(file), no))
        for line, no in map(lines.__getitem__, range(len(lines)))
    ]
    if not rows:
        raise ValueError(f"{file}: no rows; --examples names an evaluation's file, or rows question, image, answer")
    if "responses" in rows[0][1]:
        return compared(rows)
    words = version_for(version, file.name)
    found = [
        Example(asked, plain(asked.text, len(asked.images), rows[0][0])[0], words)
        for asked in read_questions([file], direct)
    ]
    return bounded(found, f"{len(found)} questions of {file.name}")


def compared(rows: Sequence[tuple[Source, dict[str, Any]]]) -> Examples:
    """Questions of an evaluation: ones that became right and ones that no longer are in turn, all if none changed.

    Raises:
        RecordError: a row is not as an evaluation writes it.
    """
    found = [of_evaluation(row, where) for where, row in rows]
    kinds = [[one for one in found if one.kind == KINDS[change]] for change in (1, -1)]
    changed = [one for pair in zip_longest(*kinds) for one in pair if one is not None]
    told = f"{len(changed)} of {len(found)} questions that the checkpoints of the evaluation answered differently"
    if not changed:
        told = f"{len(found)} questions of an evaluation, none of them known to be answered differently"
    return bounded(changed or found, told)


def bounded(examples: Sequence[Example], told: str) -> Examples:
    """Up to MAX_EXAMPLES that the page can ask, and the sentence about them."""
    usable = [one for one in examples if len(one.asked.images) <= MAX_IMAGES]
    listed = tuple(islice(usable, MAX_EXAMPLES))
    return Examples(f"Listed are {len(listed)} of {told}.", listed)


def of_evaluation(row: dict[str, Any], where: Source) -> Example:
    """The example of a row of `evaluation.answering.answer_rows`; RecordError of any other."""
    try:
        kind = KINDS[change_of(row)] if "before" in row else ""
        prompt = Prompt(tuple(row["images"]), row["question"], row["answer"])
        key = row["key"]
    except (KeyError, IndexError, TypeError) as error:
        raise RecordError(*where, f"no row of an evaluation's answers: {error!r}") from error
    question, version = plain(prompt.question, len(prompt.image), where)
    asked = AskedQuestion(
        key=key,
        prompt=prompt,
        text=prompt.question,
        version=version,
        images=prompt.image,
        gold=prompt.answer,
        modes=TYPED_CHECKS,
        options=spelled_options(question),
    )
    return Example(asked, question, version or AS_TYPED, kind)


def plain(text: str, images: int, where: Source) -> tuple[str, str | None]:
    """What was typed for a text as asked, and its prompt version; placeholders stay where one is further down."""
    head, body = split_placeholders(text, images, where)
    question, version = unasked(body)
    return (head + question if IMAGE_PLACEHOLDER in question else question), version


def views(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """What the page needs of each example."""
    return [
        {
            "question": one.question,
            "version": one.version,
            "kind": one.kind,
            "gold": one.gold,
            "images": len(one.asked.images),
        }
        for one in examples
    ]
