"""Filters that look at a row, or at the rows of a prompt or data set together, by their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from tools.curation.columns import Columns, draw_order
from tools.curation.difficulty import asked_key
from tools.curation.ledger import DropLedger

LANGUAGE_CHARACTERS = 400  # of a row that are looked at
LEAST_LETTERS = 20  # below, a text has no language that could be told
SURE = 0.9  # probability from which a language counts


def keep_languages(columns: Columns, ledger: DropLedger, languages: Sequence[str]) -> None:
    """Drop rows whose question and chosen answer are surely in another language (ISO 639-1 codes, by py3langid).

    Raises:
        ValueError: a code is none that it knows.
    """
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if unknown := set(languages) - set(identifier.nb_classes):
        raise ValueError(
            f"--languages {' '.join(sorted(unknown))}: no language of ISO 639-1 that is told, such as en zh"
        )
    for row in ledger.staying():
        pair = columns.read(int(row))
        text = f"{pair.question} {pair.chosen}"[:LANGUAGE_CHARACTERS]
        if sum(map(str.isalpha, text)) < LEAST_LETTERS:
            continue
        language, probability = identifier.classify(text)
        if language not in languages and probability >= SURE:
            ledger.drop(int(row), "language", detail=language)


def keep_difficulty(
    columns: Columns, ledger: DropLedger, shares: Mapping[int, float], least: float, most: float
) -> None:
    """Drop rows of prompts whose share of right answers is outside least..most; unknown ones stay."""
    for row in ledger.staying():
        pair = columns.read(int(row))
        share = shares.get(asked_key(pair.image, pair.question))
        if share is not None and not least <= share <= most:
            ledger.drop(int(row), "difficulty", detail=f"{share:.3f} of its answers are right")


def limit_pairs(columns: Columns, ledger: DropLedger, most: int, seed: int) -> None:
    """Keep at most so many pairs of a prompt, drawn by the seed."""
    rows = ledger.staying()
    order = np.lexsort((draw_order(columns.pair[rows], seed), columns.prompt[rows]))
    prompts = columns.prompt[rows][order]
    begins = np.flatnonzero(np.r_[True, prompts[1:] != prompts[:-1]])
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)]))
    ledger.drop_all(rows[order[rank >= most]], "pairs_per_prompt")


def balance_lengths(columns: Columns, ledger: DropLedger, most_longer: float, seed: int) -> None:
    """Drop pairs of each data set until at most this share has the longer answer on one side, drawn by the seed.

    Chosen answers that are nearly always longer, or shorter, teach length. Pairs of equal lengths stay.
    """
    rows = ledger.staying()
    numbers = columns.dataset_numbers()[rows]
    longer = columns.chosen[rows].astype(np.int64) - columns.rejected[rows]
    drawn = draw_order(columns.pair[rows], seed)
    for number in range(len(columns.datasets)):
        own = numbers == number
        sides = [np.flatnonzero(own & (longer > 0)), np.flatnonzero(own & (longer < 0))]
        many, few = sorted(sides, key=len, reverse=True)
        allowed = allowed_majority(len(many), len(few), int(own.sum()) - len(many) - len(few), most_longer)
        leaving = many[np.argsort(drawn[many])[allowed:]]
        ledger.drop_all(rows[leaving], "length_balance")


def allowed_majority(many: int, few: int, equal: int, most: float) -> int:
    """How many of `many` may stay so that they are at most a share `most` of what stays with the others."""
    others = few + equal
    if most >= 1 or many <= most * (many + others):
        return many
    return int(most * others / (1 - most) + 1e-9)
