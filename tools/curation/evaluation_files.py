"""The questions and pictures of evaluation files, in the form in which training rows are compared with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import Prompt, Source, parse_row
from tools.curation.questions import band_keys, text_key, word_grams, words
from tools.reasoning_data_pipeline.prompts.files import ImageRoots

COMMON_QUESTIONS = 5  # an n-gram that stands in so many different questions, and in COMMON_SHARE of all, is boilerplate
COMMON_SHARE = 0.01


@dataclass
class EvaluationFiles:
    """What must not be trained on.

    Attributes:
        names: "file:line" of each question.
        questions: its words.
        pictures: files of all questions' pictures, and `picture_owner`, the question that each is of.
        has_picture: whether a question has any.
        grams: n-gram -> questions that it stands in; boilerplate left out.
        gram_counts: n-grams of each question that count.
        bands: band key -> questions.
        texts: hash of a normalised question -> questions.
    """

    names: list[str] = field(default_factory=list)
    questions: list[list[str]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    picture_owner: list[int] = field(default_factory=list)
    has_picture: list[bool] = field(default_factory=list)
    grams: dict[int, list[int]] = field(default_factory=dict)
    gram_counts: list[int] = field(default_factory=list)
    bands: dict[int, list[int]] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)

    def pictures_by_question(self) -> Counter[int]:
        """How many pictures each question has."""
        return Counter(self.picture_owner)


def read_evaluation(files: Sequence[Path], image_root: Path | None) -> EvaluationFiles:
    """Read prompt files as `tools/evaluate.py` does.

    Raises:
        FileNotFoundError: a file is not there.
        RecordError: a row or a picture is not usable: what cannot be read cannot be compared with.
        ValueError: no file has a row.
    """
    found = EvaluationFiles()
    for file in files:
        lines, roots = JsonlFile(file), ImageRoots(file.parent, image_root)
        for line, line_no in (lines[index] for index in range(len(lines))):
            where = Source(str(file), line_no)
            prompt = Prompt.from_row(parse_row(line, *where), where, allow_no_answer=True)
            paths = roots.resolve(prompt.image, where)
            found.pictures += paths
            found.picture_owner += [len(found.names)] * len(paths)
            found.has_picture.append(bool(paths))
            found.names.append(f"{file.name}:{line_no}")
            found.questions.append(words(prompt.question))
    if not found.names:
        raise ValueError(f"{', '.join(map(str, files))}: no rows; name files of questions, one a line")
    _index(found)
    return found


def _index(found: EvaluationFiles) -> None:
    """Fill the lookups."""
    for number, (question, keys) in enumerate(zip(found.questions, band_keys(found.questions), strict=True)):
        _add(found.texts, [text_key(question)], number)
        _add(found.bands, keys.tolist(), number)
        _add(found.grams, set(word_grams(question)), number)
    most = max(COMMON_QUESTIONS, COMMON_SHARE * len(found.names))
    texts = np.array([text_key(question) for question in found.questions], np.uint64)
    for gram in [gram for gram, owners in found.grams.items() if len(np.unique(texts[owners])) >= most]:
        del found.grams[gram]
    found.gram_counts = [0] * len(found.names)
    for owners in found.grams.values():
        for number in owners:
            found.gram_counts[number] += 1


def _add(lookup: dict[int, list[int]], keys: Iterable[int], number: int) -> None:
    for key in keys:
        lookup.setdefault(key, []).append(number)
