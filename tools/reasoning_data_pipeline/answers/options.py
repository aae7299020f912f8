"""The options of a question: where its row has them, which one an answer names, and what answers are right.

options = read_options({"choices": ["2/7", "3/7"]}, "Which fraction?")
right_answers("A", options)       # ["A", "2/7"]
named_options("2/7", options)     # {0}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from tools.reasoning_data_pipeline.answers.choices import Choice
from tools.reasoning_data_pipeline.answers.comparison import TOP, Scope
from tools.reasoning_data_pipeline.answers.reading import Reading, read
from tools.reasoning_data_pipeline.answers.rules import compare

MAX_OPTIONS = len(ascii_uppercase)
_LISTED = re.compile(r"(?:^|\n)[ \t]*(?:\(([A-Z])\)|([A-Z])[.)、:：])[ \t]*(\S[^\n]*?)[ \t]*(?=\n|$)")
_INLINE = re.compile(r"(?:^|(?<=\s))(?:\(([A-Z])\)|([A-Z])[.)、:：])\s*")


def read_options(fields: Mapping[str, Any], question: str = "") -> tuple[str, ...]:
    """The options of a row in the order of their letters; () for an open question.

    They are a list `choices` or `options`, or one field per letter (A, B, ..), or stand in the question.

    Raises:
        ValueError: they are no list of up to 26 values.
    """
    found = fields.get("choices") or fields.get("options")
    if found is None or found == []:
        columns = [fields.get(letter) for letter in ascii_uppercase]
        given = columns[: columns.index(None)] if None in columns else columns
        return tuple(map(str, given)) or spelled_options(question)
    if isinstance(found, Mapping) and list(found) == list(ascii_uppercase[: len(found)]):
        found = list(found.values())
    if not isinstance(found, list | tuple) or len(found) > MAX_OPTIONS:
        raise ValueError("choices must be a list of at most 26 options")
    return tuple(map(str, found))


def spelled_options(question: str) -> tuple[str, ...]:
    """The options that a question lists, one a line or after one another, lettered from A on; () for none."""
    listed = [(match[1] or match[2], match[3]) for match in _LISTED.finditer(question)]
    if not _are_options(listed):
        marks = list(_INLINE.finditer(question))
        ends = [*(mark.start() for mark in marks), len(question)][1:]
        listed = [(m[1] or m[2], question[m.end() : end].strip(" ,;\n")) for m, end in zip(marks, ends, strict=False)]
    return tuple(text for _, text in listed) if _are_options(listed) else ()


def _are_options(listed: Sequence[tuple[str, str]]) -> bool:
    """Whether there are several texts, lettered in the order of the alphabet."""
    letters = [letter for letter, _ in listed]
    return len(listed) > 1 and letters == list(ascii_uppercase[: len(letters)]) and all(text for _, text in listed)


def right_answers(answer: str, options: Sequence[str]) -> list[str] | None:
    """Both the letter and the text of the option that is right; None where `answer` is no option.

    A text that reads like a letter of the options is left out: "B" is the second option, whatever it says.
    """
    letters = ascii_uppercase[: len(options)]
    texts = [option.strip() for option in options]
    if answer.strip() in texts:
        index = texts.index(answer.strip())
    else:
        value = read(answer).value
        if not isinstance(value, Choice) or value.letter not in letters:
            return None
        index = letters.index(value.letter)
    text = options[index]
    return [letters[index]] if text.strip().upper() in letters else [letters[index], text]


def named_options(predicted: str, options: Sequence[str], scope: Scope = TOP) -> set[int]:
    """The indices of the options that an answer names: by letter, by text, else all whose text agrees with it.

    More than one for texts that agree with each other, and for an answer whose letter and text are of two options.
    """
    answer, texts = read(predicted), [read(option) for option in options]
    if isinstance(answer.value, Choice) and (index := ascii_uppercase.index(answer.value.letter)) < len(options):
        if not answer.value.text:
            return {index}
        return {index} | (
            _by_text(read(answer.value.text), texts, scope) if not _says(answer, texts[index], scope) else set()
        )
    return _by_text(answer, texts, scope)


def _says(answer: Reading, text: Reading, scope: Scope) -> bool:
    return isinstance(answer.value, Choice) and compare(read(answer.value.text), text, scope).agree is True


def _by_text(answer: Reading, texts: Sequence[Reading], scope: Scope) -> set[int]:
    same = {index for index, text in enumerate(texts) if text.compact == answer.compact}
    same = same or {i for i, text in enumerate(texts) if answer.words is not None and text.words == answer.words}
    return same or {index for index, text in enumerate(texts) if compare(answer, text, scope).agree is True}
