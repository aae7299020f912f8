"""Which rows a threshold may be sought on: a seeded part that no figure is of, told apart by question.

A threshold that is chosen on the rows whose figures are published is chosen by their labels; answers to one question
are alike, so a question is on one side with all of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from tools.critic_benchmark.metrics import ScoredRow, best_threshold
from tools.critic_benchmark.rows import ProcessRow

DIVISOR = 2**64


@dataclass(frozen=True)
class Chosen:
    """A threshold, how it was found, and the rows that the figures are of.

    Attributes:
        threshold: a step is right where its score is above it.
        how: for the report.
        rows: none of them had a part in the choice.
    """

    threshold: float
    how: str
    rows: Sequence[ScoredRow]


def in_part(row: ProcessRow, share: float, seed: int) -> bool:
    """Whether a row's question is in the part that thresholds are sought on; the same wherever the files lie."""
    asked = f"{seed}\0{row.question}\0{row.pictures}"
    return xxhash.xxh3_64_intdigest(asked.encode()) / DIVISOR < share


def sweep(rows: Sequence[ScoredRow], share: float, seed: int) -> Chosen:
    """The threshold with the best pooled macro F1 on about `share` of the questions, for the rows of all others.

    Raises:
        ValueError: one of the two parts has no step that counts.
    """
    part = [one for one in rows if in_part(one.row, share, seed)]
    others = [one for one in rows if not in_part(one.row, share, seed)]
    judged = [pair for one in part for pair in one.judged]
    if not judged or not any(one.judged for one in others):
        sizes = f"{len(part)} rows to seek a threshold on and {len(others)} to measure"
        raise ValueError(f"{sizes}: too few for --threshold sweep; give a number, or another --sweep-share")
    threshold = best_threshold(judged)
    how = f"sought on {len(part)} rows ({share:.0%} of the questions, seed {seed}), of which no figure is"
    return Chosen(threshold, how, others)
