"""Questions of an evaluation: prompt rows, open or multiple choice, in the words in which they are put.

A row is {"image", "question", "answer"}. Options stand in the question, or in the row: `choices` or `options` (a list,
as in MathVista) or one field per letter (`A`, `B`, .., as in VLMEvalKit). The right answer is an option's letter or
its text; either is right in a model's answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import xxhash

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import Prompt, RecordError, Source, parse_row, shown
from tools.evaluation.vlmevalkit import wording
from tools.reasoning_data_pipeline.answers import options
from tools.reasoning_data_pipeline.answers.checker import accepted_texts, modes_for_dataset
from tools.reasoning_data_pipeline.prompts.files import ImageRoots
from tools.reasoning_data_pipeline.prompts.wording import ask, split_placeholders, version_for

OPTIONS_MARK = "Choices:"  # a question with this line, such as MathVista's `query`, has its options in its text


@dataclass(frozen=True)
class AskedQuestion:
    """A prompt row and how it is put.

    Attributes:
        key: names it in results; the same for the same row in the same words.
        prompt: the row.
        text: as asked.
        version: prompt version by which the answer is found in a response; None where the response is the answer.
        images: paths.
        gold: what is right, in a form that `AnswerChecker` takes.
        modes: the checks of its data set.
        options: texts of the options, of the row or spelled in its question; () for an open question.
    """

    key: str
    prompt: Prompt
    text: str
    version: str | None
    images: tuple[str, ...]
    gold: Any
    modes: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptRow:
    """One prompt row before it is put in words: `body` has its options."""

    prompt: Prompt
    body: str
    options: tuple[str, ...]
    where: Source
    file: Path

    @property
    def dataset(self) -> str:
        """Name of the data set: the row's own, else that of its file."""
        return str(self.prompt.extra.get("dataset") or self.file.stem)


Words = Callable[[PromptRow], tuple[str, str | None]]
"""Puts a row: the text asked, and the version by which the answer is found."""


def reasoned(version: str) -> Words:
    """Step by step, in the words of a prompt version; Chinese ones where the file's name has `_zh_`."""

    def put(row: PromptRow) -> tuple[str, str | None]:
        chosen = version_for(version, row.file.name)
        return ask(row.body, len(row.prompt.image), version=chosen, where=row.where), chosen

    return put


def direct(row: PromptRow) -> tuple[str, str | None]:
    """As it stands."""
    return ask(row.body, len(row.prompt.image), version=None, where=row.where), None


def as_vlmevalkit(*, use_mpo_prompt: bool, use_cot: bool) -> Words:
    """As VLMEvalKit's InternVL wrapper puts it, see `vlmevalkit`."""

    def put(row: PromptRow) -> tuple[str, str | None]:
        words = wording(
            row.body, row.dataset, is_choice=bool(row.options), use_mpo_prompt=use_mpo_prompt, use_cot=use_cot
        )
        images = len(row.prompt.image)
        return ask(row.body + words.suffix, images, version=words.ask_as, where=row.where), words.parse_as

    return put


def read_questions(
    files: Iterable[Path], words: Words, image_root: Path | None = None, *, follow_symlinks: bool = False
) -> Iterator[AskedQuestion]:
    """The rows of prompt files, put in words; images as of `ImageRoots`.

    Raises:
        FileNotFoundError: a file is not there.
        RecordError: a row is not usable; an evaluation leaves none out.
        ValueError: a file has no rows.
    """
    seen = Counter[str]()
    for row in chain.from_iterable(map(read_rows, files)):
        images = ImageRoots(row.file.parent, image_root, follow_symlinks)
        text, version = words(row)
        name = xxhash.xxh3_64_hexdigest(f"{text}\0{row.prompt.image}\0{row.prompt.answer!r}".encode())
        seen[name] += 1  # the same question twice is two questions
        yield AskedQuestion(
            key=f"{name}-{seen[name]}" if seen[name] > 1 else name,
            prompt=row.prompt,
            text=text,
            version=version,
            images=images.resolve(row.prompt.image, row.where),
            gold=right_answers(row.prompt, row.options, row.where),
            modes=modes_for_dataset(row.dataset),
            options=row.options or options.spelled_options(row.prompt.question),
        )


def read_rows(file: Path) -> Iterator[PromptRow]:
    """The rows of a prompt file with their options.

    Raises:
        ValueError: there are none.
        FileNotFoundError, RecordError: as of `read_questions`.
    """
    lines = JsonlFile(file)
    if not len(lines):
        raise ValueError(f"{file}: no rows; name a JSONL file of questions with answers, one a line")
    for line, line_no in (lines[index] for index in range(len(lines))):
        where = Source(str(file), line_no)
        prompt = Prompt.from_row(parse_row(line, *where), where)
        split_placeholders(prompt.question, len(prompt.image), where)  # refuses a wrong number of them
        choices = read_options(prompt, where)
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip(ascii_uppercase, choices, strict=False))
        body = prompt.question if OPTIONS_MARK in prompt.question else prompt.question + listed
        yield PromptRow(prompt, body, choices, where, file)


def read_options(prompt: Prompt, where: Source) -> tuple[str, ...]:
    """The options of a row in the order of their letters; () for an open question, or one that lists them itself.

    Raises:
        RecordError: they are no list of up to 26 values.
    """
    try:
        return options.read_options(prompt.extra)
    except ValueError as error:
        found = prompt.extra.get("choices") or prompt.extra.get("options")
        raise RecordError(*where, f"{error}, not {shown(found)}") from error


def right_answers(prompt: Prompt, choices: tuple[str, ...], where: Source) -> Any:
    """What is right: the row's answer, for an option both its letter and its text, see `options.right_answers`.

    Raises:
        RecordError: the answer is none of the options.
    """
    if not choices:
        return prompt.answer
    for answer in accepted_texts(prompt.answer):
        if found := options.right_answers(answer, choices):
            return found
    letters = ascii_uppercase[: len(choices)]
    raise RecordError(*where, f"answer {shown(prompt.answer)} is no option: neither of {choices} nor of {letters}")
