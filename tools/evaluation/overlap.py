"""Held-out questions that are also trained on: the same words about the same pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from internvl_chat.data.mixture import MixedDataset
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from tools.evaluation.questions import AskedQuestion

Key = tuple[str, ...]  # words, and real paths of pictures


def count_overlap(questions: Sequence[AskedQuestion], datasets: Iterable[MixedDataset]) -> int:
    """How many of the questions some row of the data sets asks too, as it stands or as it was put; reads all rows."""
    names = {key: place for place, question in enumerate(questions) for key in _keys_of_question(question)}
    return len({names[key] for data in datasets for key in _keys_of_rows(data) if key in names})


def _keys_of_question(question: AskedQuestion) -> Iterator[Key]:
    for words in (question.text, question.prompt.question):
        yield _key(words, question.images)


def _keys_of_rows(data: MixedDataset) -> Iterator[Key]:
    for number in range(len(data.rows)):
        try:
            row = orjson.loads(data.rows[number][0])
        except ValueError:  # training skips it
            continue
        if isinstance(row, dict):
            pictures = tuple(os.path.join(data.root, path) for path in _pictures(row))
            for name in ("question", "question_orig"):
                if isinstance(row.get(name), str):
                    yield _key(row[name], pictures)
    data.rows.forget_pages()


def _pictures(row: Mapping[str, Any]) -> list[str]:
    image = row.get("image") or []
    return [path for path in ([image] if isinstance(image, str) else image) if isinstance(path, str)]


def _key(words: str, pictures: Sequence[str]) -> Key:
    return (" ".join(words.replace(IMAGE_PLACEHOLDER, " ").split()), *map(os.path.realpath, pictures))
