"""Training rows that an evaluation must not meet: its pictures, its questions, and a report to stand beside a headline.

picture    a picture of the row is one of the evaluation's: the same bytes, or the same by perceptual hash and overlay
question   the row's question is one of the evaluation's: half of its 13-grams of words (those of wording that many
           questions share do not count), or the same words but for spelling; where both have pictures and the
           question is shorter than 13 words, only with the picture: "How many are there?" is no leak
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from internvl_chat.data.images import ImageError
from internvl_chat.run.bars import track
from tools.curation.columns import Columns
from tools.curation.evaluation_files import EvaluationFiles
from tools.curation.ledger import DropLedger
from tools.curation.likeness import candidates, same_picture
from tools.curation.pictures import PictureHashes
from tools.curation.questions import WORD_GRAM, band_keys, fixed_words, same_question, text_key, word_grams

CHUNK = 20_000  # questions, or pictures, at once
CONTAINED = 0.5  # of an evaluation question's 13-grams
EXAMPLES = 20  # leaks of a kind in the report


@dataclass
class Leaks:
    """What was found: by row of the training data, the evaluation question that it has the picture or question of."""

    pictures: dict[int, int] = field(default_factory=dict)
    questions: dict[int, int] = field(default_factory=dict)


def find_leaks(columns: Columns, rows: np.ndarray, known: EvaluationFiles, hashes: PictureHashes) -> Leaks:
    """Compare these rows with the evaluation."""
    owners = leaked_pictures(columns, rows, known, hashes)
    leaks = Leaks()
    for row in rows:
        owner = next((owners[int(number)] for number in columns.pictures_of(int(row)) if int(number) in owners), None)
        if owner is not None:
            leaks.pictures[int(row)] = owner
    leaks.questions = leaked_questions(columns, rows, known)
    return leaks


def leaked_pictures(
    columns: Columns, rows: np.ndarray, known: EvaluationFiles, hashes: PictureHashes
) -> dict[int, int]:
    """Number of a training picture -> evaluation question that has it."""
    if not known.pictures:
        return {}
    hashes.fill(known.pictures)
    exact = {content: owner for path, owner in zip(known.pictures, known.picture_owner, strict=True)
             if (content := hashes.exact(path)) is not None}  # fmt: skip
    readable, views = hashes.views(known.pictures)
    numbers = columns.pictures_among(rows)
    found: dict[int, int] = {}
    for begin in track(range(0, len(numbers), CHUNK), desc="pictures against the evaluation", unit_scale=CHUNK):
        paths = {
            int(number): path for number in numbers[begin : begin + CHUNK] if (path := _path(columns, int(number)))
        }
        hashes.fill(paths.values())
        found |= {number: exact[content] for number, path in paths.items() if (content := hashes.exact(path)) in exact}
        listed = list(paths.items())
        own_readable, own_views = hashes.views([path for _, path in listed])
        for one, other in candidates(own_views, views):
            number, path = listed[own_readable[one]]
            place = int(readable[other])
            if number not in found and same_picture(path, known.pictures[place]):
                found[number] = known.picture_owner[place]
    return found


def _path(columns: Columns, picture: int) -> str | None:
    try:
        return columns.picture_path(picture)
    except ImageError:
        return None


def leaked_questions(columns: Columns, rows: np.ndarray, known: EvaluationFiles) -> dict[int, int]:
    """Row -> evaluation question whose words it has."""
    _, first, inverse = np.unique(columns.text[rows], return_index=True, return_inverse=True)
    matches: dict[int, list[int]] = {}  # index of a different text -> evaluation questions
    for begin in track(range(0, len(first), CHUNK), desc="questions against the evaluation", unit_scale=CHUNK):
        part = range(begin, min(begin + CHUNK, len(first)))
        questions = [columns.question(int(rows[first[index]])) for index in part]
        for index, question, keys in zip(part, questions, band_keys(questions), strict=True):
            if found := list(matching_questions(question, keys.tolist(), known)):
                matches[index] = found
    leaks: dict[int, int] = {}
    for position, index in enumerate(inverse):
        for number in matches.get(int(index), ()):
            row = int(rows[position])
            both_have = known.has_picture[number] and len(columns.pictures_of(row)) > 0
            if len(known.questions[number]) >= WORD_GRAM or not both_have:
                leaks.setdefault(row, number)
    return leaks


def matching_questions(question: list[str], keys: Iterable[int], known: EvaluationFiles) -> Iterator[int]:
    """Evaluation questions that a question is, or contains."""
    yield from known.texts.get(text_key(question), ())
    proposed = dict.fromkeys(number for key in keys for number in known.bands.get(key, ()))
    yield from (number for number in proposed if same_question(question, known.questions[number]))
    shared = Counter(number for gram in set(word_grams(question)) for number in known.grams.get(gram, ()))
    for number, count in shared.items():
        inside = set(fixed_words(known.questions[number])) <= set(question)
        if inside and count >= CONTAINED * known.gram_counts[number]:
            yield number


def drop_leaks(columns: Columns, ledger: DropLedger, known: EvaluationFiles, hashes: PictureHashes) -> dict[str, Any]:
    """Drop leaking rows; returns the report, as JSON values."""
    rows = ledger.staying()
    leaks = find_leaks(columns, rows, known, hashes)
    for name, found in (("leaked_picture", leaks.pictures), ("leaked_question", leaks.questions)):
        for row, number in found.items():
            ledger.drop(row, name, detail=known.names[number])
    return report(columns, rows, known, leaks)


def report(columns: Columns, rows: np.ndarray, known: EvaluationFiles, leaks: Leaks) -> dict[str, Any]:
    """What can stand beside a headline: of how many questions how many were met, and by how many training rows."""
    met_picture, met_question = set(leaks.pictures.values()), set(leaks.questions.values())
    both = [row for row, number in leaks.pictures.items() if leaks.questions.get(row) == number]
    leaking = leaks.pictures.keys() | leaks.questions.keys()
    text = (
        f"{len(known.names):,} evaluation questions against {len(rows):,} training rows: {len(met_picture):,} of them "
        f"have a picture, {len(met_question):,} their wording in these; {len(leaking):,} rows were removed"
    )
    return {
        "headline": text,
        "evaluation_questions": len(known.names),
        "evaluation_pictures": len(known.pictures),
        "training_rows": len(rows),
        "questions_with_leaked_picture": len(met_picture),
        "questions_with_leaked_wording": len(met_question),
        "rows_with_leaked_picture": len(leaks.pictures),
        "rows_with_leaked_wording": len(leaks.questions),
        "rows_with_both": len(both),
        "rows_removed": len(leaking),
        "method": {
            "word_gram": WORD_GRAM,
            "contained": CONTAINED,
            "pictures": "bytes; phash of 16 views, then overlay",
        },
        "examples": [
            {"row": columns.name(row), "evaluation": known.names[number], "kind": kind}
            for kind, found in (("picture", leaks.pictures), ("question", leaks.questions))
            for row, number in list(found.items())[:EXAMPLES]
        ],
    }
