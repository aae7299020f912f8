"""Near duplicates: the same question, however spelled, about the same pictures, however stored; the first one stays.

Question and pictures have to agree: "How many are there?" of two pictures is two prompts, and so are two questions
about one. The rows of one prompt (question and paths equal) are its pairs and stay together; an equal pair repeats.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from internvl_chat.data.images import ImageError
from internvl_chat.run.bars import track
from tools.curation.columns import Columns
from tools.curation.ledger import DropLedger
from tools.curation.likeness import candidates, same_picture
from tools.curation.pictures import PictureHashes, group_same, root_of
from tools.curation.questions import KEYS, band_keys, same_question

CHUNK = 20_000  # questions whose keys are in memory at once
MOST_TRIED = 8  # earlier questions that a question is compared with, per band


def drop_repeated_pairs(columns: Columns, ledger: DropLedger) -> None:
    """Drop pairs whose question, pictures and answers stand in the mixture before."""
    rows = ledger.staying()
    _, first, inverse = np.unique(columns.pair[rows], return_index=True, return_inverse=True)
    for row, earlier in zip(rows, rows[first[inverse]], strict=True):
        if row != earlier:
            ledger.drop(int(row), "duplicate_pair", other=int(earlier))


def drop_near_duplicates(columns: Columns, ledger: DropLedger, hashes: PictureHashes) -> None:
    """Drop the rows of prompts that are near duplicates of an earlier one."""
    rows = ledger.staying()
    labels = question_labels(columns, rows)
    _, first = np.unique(columns.prompt[rows], return_index=True)
    prompts = np.sort(first)  # positions in `rows` of the first row of each prompt
    groups: dict[int, list[int]] = defaultdict(list)
    several = _repeated(labels[prompts])
    for position in prompts[several]:
        groups[int(labels[position])].append(int(rows[position]))
    copies: dict[int, int] = {}  # hash of a prompt -> row of the prompt that it repeats
    for group in track(list(groups.values()), desc="groups of questions", unit="group"):
        copies |= {int(columns.prompt[row]): earlier for row, earlier in _copies(columns, group, hashes)}
    if not copies:
        return
    for row in rows[np.isin(columns.prompt[rows], np.array(list(copies), np.uint64))]:
        ledger.drop(int(row), "near_duplicate", other=copies[int(columns.prompt[row])])


def _repeated(values: np.ndarray) -> np.ndarray:
    """Which of these values stand more than once, bool."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def _copies(columns: Columns, group: list[int], hashes: PictureHashes) -> Iterator[tuple[int, int]]:
    """(row, earlier row) of prompts with one question whose pictures are the same."""
    pictures = list(dict.fromkeys(int(number) for row in group for number in columns.pictures_of(row)))
    paths = {number: path for number in pictures if (path := _path(columns, number))}
    hashes.fill(paths.values())
    same = dict(zip(paths, group_same(list(paths.values()), hashes, same_picture, candidates), strict=True))
    seen: dict[tuple[int, ...], int] = {}
    for row in group:
        numbers = columns.pictures_of(row)
        key = tuple(same.get(int(number), -1 - int(number)) for number in numbers)
        if (earlier := seen.setdefault(key, row)) != row:
            yield row, earlier


def _path(columns: Columns, picture: int) -> str | None:
    try:
        return columns.picture_path(picture)
    except ImageError:
        return None  # such rows are not found by their picture; validate names them


def question_labels(columns: Columns, rows: np.ndarray) -> np.ndarray:
    """For each of these rows a number that rows with the same question, however spelled, have in common."""
    _, first, inverse = np.unique(columns.text[rows], return_index=True, return_inverse=True)
    order = np.argsort(first)
    firsts = rows[first[order]]  # a row of each different text, in order
    label = np.arange(len(firsts), dtype=np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        _write_keys(columns, firsts, Path(folder))
        for band in track(range(KEYS), desc="bands of questions", unit="band"):
            _join_band(columns, firsts, np.fromfile(Path(folder) / str(band), np.uint64), label)
    found = np.array([root_of(label, index) for index in range(len(label))], np.uint32)
    place = np.empty(len(order), np.uint32)
    place[order] = np.arange(len(order), dtype=np.uint32)
    return found[place[inverse]]


def _write_keys(columns: Columns, firsts: np.ndarray, folder: Path) -> None:
    """The band keys of the questions, a file a band: all of them would not fit the memory."""
    files = [open(folder / str(band), "wb") for band in range(KEYS)]  # noqa: SIM115 (closed below)
    for begin in track(range(0, len(firsts), CHUNK), desc="signatures of questions", unit_scale=CHUNK, unit="question"):
        questions = [columns.question(int(row)) for row in firsts[begin : begin + CHUNK]]
        keys = np.stack(list(band_keys(questions)))
        for band, file in enumerate(files):
            keys[:, band].tofile(file)
    for file in files:
        file.close()


def _join_band(columns: Columns, firsts: np.ndarray, keys: np.ndarray, label: np.ndarray) -> None:
    """Give questions that share a key of this band, and are the same, one label."""
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    for bucket in np.split(order, borders):
        if len(bucket) < 2:
            continue
        tried: dict[int, list[str]] = {}
        for index in bucket:
            own = root_of(label, int(index))
            if own in tried:
                continue
            question = columns.question(int(firsts[index]))
            twin = next(
                (root for root, earlier in list(tried.items())[:MOST_TRIED] if same_question(earlier, question)), None
            )
            if twin is None:
                tried[own] = question
            else:
                low, high = sorted((own, root_of(label, twin)))
                label[high] = low
