"""What choosing one of n answers to a question is worth: by a critic, by votes, by both, or with luck.

All figures come from one sampling of N answers: that of n < N is the expectation over the subsets of n answers. That of
best-of-n and pass@n has a closed form. Votes are counted over all subsets where there are at most MOST_SUBSETS, else
over so many drawn by a fixed seed, the same for every question. Where the first answer is the most likely one, as in
VLMEvalKit's best_of_n, every subset holds it.

Of equal scores or votes the answer sampled first wins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

MOST_SUBSETS = 1_000
FINE_SIZES = 16  # up to here every n is measured, beyond powers of two
NO_ANSWER = -1


@dataclass(frozen=True)
class Ballot:
    """N answers to a question.

    Attributes:
        right: (N,) bool; an undecided answer is not.
        classes: (N,) int64, equal where the answers are, NO_ANSWER where a response gives none.
        scores: (N,) float64 of the critic, -inf where there was no text to score.
        keeps_first: every subset holds answer 0.
    """

    right: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    keeps_first: bool = False

    @property
    def num_answers(self) -> int:
        """N."""
        return len(self.right)


def sizes(num_answers: int) -> list[int]:
    """The n that are measured: 1..N, of more than FINE_SIZES answers the powers of two below N, and N."""
    if num_answers <= FINE_SIZES:
        return list(range(1, num_answers + 1))
    return [*(2**power for power in range(num_answers.bit_length()) if 2**power < num_answers), num_answers]


def pass_at(ballot: Ballot, n: int) -> float:
    """Share of the subsets of n answers that hold a right one: pass@n, what a perfect critic would reach."""
    free, picked, wrong = ballot.num_answers, n, int((~ballot.right).sum())
    if ballot.keeps_first:
        if ballot.right[0]:
            return 1.0
        free, picked, wrong = free - 1, n - 1, wrong - 1
    return (comb(free, picked) - comb(wrong, picked)) / comb(free, picked)


def best_of(ballot: Ballot, n: int) -> float:
    """Share of the subsets of n answers in which the one with the highest score is right.

    The answer of rank r (from 0) is the best of those subsets whose other n - 1 answers rank below it.
    """
    ranked = np.argsort(-ballot.scores, kind="stable").tolist()
    if not ballot.keeps_first:
        total = comb(len(ranked), n)
        return sum(comb(len(ranked) - 1 - r, n - 1) for r, at in enumerate(ranked) if ballot.right[at]) / total
    first = ranked.index(0)
    below = len(ranked) - 1 - first
    won = comb(below, n - 1) * bool(ballot.right[0])  # by answer 0; an answer that ranks above it beats it too
    if n > 1:
        won += sum(comb(len(ranked) - 2 - r, n - 2) for r in range(first) if ballot.right[ranked[r]])
    return won / comb(len(ranked) - 1, n - 1)


def chosen(ballot: Ballot) -> int:
    """The answer of all N that the critic chooses."""
    return int(np.argmax(ballot.scores))


def vote(ballot: Ballot, n: int, weights: np.ndarray) -> float:
    """Share of the subsets of n answers whose vote is right; subsets without an answer are not.

    Args:
        ballot: the answers.
        n: answers of a subset.
        weights: (N,) of the votes, >= 0; all 1 for the majority.
    """
    names = np.unique(ballot.classes[ballot.classes != NO_ANSWER])
    if not len(names):
        return 0.0
    subsets = draw_subsets(ballot.num_answers, n, keeps_first=ballot.keeps_first)  # (S, N)
    members = ballot.classes[:, None] == names  # (N, classes)
    votes = (subsets * weights) @ members  # (S, classes)
    said = [subsets & own for own in members.T]  # each (S, N)
    first = np.stack([np.where(who.any(1), who.argmax(1), ballot.num_answers) for who in said], axis=1)  # (S, classes)
    votes[first == ballot.num_answers] = -1  # nobody's answer
    is_top = votes >= votes.max(axis=1, keepdims=True) - 1e-12  # sums of the same weights in another order are a tie
    winner = np.where(is_top, first, ballot.num_answers).min(axis=1)
    return float(np.append(ballot.right, False)[winner].mean())


@lru_cache(maxsize=64)
def draw_subsets(num_answers: int, n: int, *, keeps_first: bool = False) -> np.ndarray:
    """Subsets of n of the answers, (S, N) bool: all of them, or MOST_SUBSETS drawn by a fixed seed."""
    fixed = (0,) if keeps_first else ()
    free, left = range(len(fixed), num_answers), n - len(fixed)
    if comb(len(free), left) <= MOST_SUBSETS:
        picked = list(combinations(free, left))
    else:
        rng = random.Random(f"{num_answers} {n}")
        picked = [tuple(rng.sample(free, left)) for _ in range(MOST_SUBSETS)]
    subsets = np.zeros((len(picked), num_answers), dtype=bool)
    for row, members in zip(subsets, picked, strict=True):
        row[[*fixed, *members]] = True
    return subsets


def expectations(ballot: Ballot, n: int) -> dict[str, float]:
    """Expected accuracy on this question, 0..1, by each way of choosing one of n answers."""
    weights = np.where(np.isfinite(ballot.scores), ballot.scores, 0.0)
    return {
        "one": float(ballot.right[ballot.keeps_first :].mean()),
        "majority": vote(ballot, n, np.ones(ballot.num_answers)),
        "best": best_of(ballot, n),
        "weighted": vote(ballot, n, weights),
        "any": pass_at(ballot, n),
    }
