"""Best-of-N: the answers that a critic chooses beside the majority's, a single one, the most likely one, and any.

    found = measure_best_of(choice, answered, greedy)     # of one way of asking, as JSON values
    found["over"][-1]["best"]["percent"], found["tests"]["best against majority"]["interval"]

How n < N answers are judged from one sampling of N, and how ties are broken, `choosing` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from internvl_chat.critic.answers import answer_score
from tools.evaluation.accuracy import percent, percents
from tools.evaluation.answering import Answered
from tools.evaluation.choosing import MOST_SUBSETS, Ballot, chosen, expectations, sizes
from tools.evaluation.comparison import paired
from tools.evaluation.statistics import share_interval
from tools.evaluation.table import CHOICES
from tools.reasoning_data_pipeline.answers.checker import Outcome

StepScores = Sequence[Sequence[float]]
"""Of the answers to a question: the scores of their steps, () of one without text."""
TESTS = (("best", "majority"), ("best", "one"), ("weighted", "majority"))


@dataclass(frozen=True)
class CriticChoice:
    """How answers are chosen.

    Attributes:
        critic: its name in the report.
        by: how the score of an answer is made of those of its steps.
        keeps_first: the first answer is the most likely one, and always among those to choose from.
    """

    critic: str
    by: str = "mean"
    keeps_first: bool = False


def ballot_of(choice: CriticChoice, answered: Answered, step_scores: StepScores) -> Ballot:
    """The answers to a question as what is chosen from."""
    scores = [answer_score(steps, choice.by) if steps else -np.inf for steps in step_scores]
    right = [outcome is Outcome.CORRECT for outcome in answered.outcomes]
    return Ballot(np.array(right), np.array(answered.majority.classes), np.array(scores), choice.keeps_first)


def measure_best_of(
    choice: CriticChoice,
    answered: Sequence[Answered],
    step_scores: Sequence[StepScores],
    greedy: Sequence[Answered] = (),
) -> dict[str, Any]:
    """Accuracies of all ways of choosing over n = 1..N with their intervals, and paired tests, as JSON values.

    Args:
        choice: how answers are chosen.
        answered: Q >= 1 questions with N >= 2 answers each.
        step_scores: of each question's answers.
        greedy: the same questions with their most likely answers; () where nobody asked for them.
    """
    pairs = zip(answered, step_scores, strict=True)
    ballots = [ballot_of(choice, one, scores) for one, scores in pairs]
    counts = sizes(ballots[0].num_answers)
    shares = {n: _transposed([expectations(ballot, n) for ballot in ballots]) for n in counts}
    last = shares[counts[-1]]
    tests = {f"{one} against {other}": paired(_pairs(last, other, one)) for one, other in TESTS}
    found: dict[str, Any] = {
        "critic": choice.critic,
        "score_by": choice.by,
        "first_greedy": choice.keeps_first,
        "questions": len(answered),
        "samples": counts[-1],
        "unscored": sum(not steps for scores in step_scores for steps in scores),
        "over": [_figures(n, shares[n], ballots[0]) for n in counts],
        "tests": tests,
    }
    if greedy:
        likely = [one.share for one in greedy]
        found["greedy"] = _accuracy(likely)
        tests["best against greedy"] = paired(list(zip(likely, last["best"], strict=True)))
    return found


def chosen_by(choice: CriticChoice, answered: Answered, step_scores: StepScores) -> int:
    """Which of all answers the critic chooses."""
    return chosen(ballot_of(choice, answered, step_scores))


def _transposed(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in CHOICES}


def _pairs(shares: Mapping[str, list[float]], before: str, after: str) -> list[tuple[float, float]]:
    return list(zip(shares[before], shares[after], strict=True))


def _accuracy(shares: Sequence[float]) -> dict[str, Any]:
    return {"percent": percent(sum(shares) / len(shares)), "interval": percents(share_interval(shares))}


def _figures(n: int, shares: Mapping[str, list[float]], ballot: Ballot) -> dict[str, Any]:
    """The accuracies with n answers, and by how much the critic's lie above the majority's."""
    fixed = int(ballot.keeps_first)
    subsets = comb(ballot.num_answers - fixed, n - fixed)
    lead = paired(_pairs(shares, "majority", "best"))
    return {
        "n": n,
        "vote_subsets": min(subsets, MOST_SUBSETS),
        "votes_exact": subsets <= MOST_SUBSETS,
        **{name: _accuracy(shares[name]) for name in CHOICES},
        "best_minus_majority": {name: lead[name] for name in ("difference", "interval", "p")},
    }
