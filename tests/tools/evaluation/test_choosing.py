"""Choosing one of n answers, by hand and against a count of all subsets."""

from itertools import combinations

import numpy as np
import pytest

from tools.evaluation.choosing import (
    NO_ANSWER,
    Ballot,
    best_of,
    chosen,
    draw_subsets,
    expectations,
    pass_at,
    sizes,
    vote,
)


def ballot(right, classes=None, scores=None, *, keeps_first=False):
    """Answers by hand: "+--" for right, wrong, wrong; classes as letters, "." for no answer."""
    marks = np.array([mark == "+" for mark in right])
    names = np.array([NO_ANSWER if name == "." else ord(name) for name in classes or right])
    return Ballot(marks, names, np.array(scores or [0.5] * len(right), dtype=float), keeps_first)


def counted(given, n, choose):
    """The expectation by trying every subset; `choose` maps the places of a subset to the chosen place, or None."""
    subsets = [s for s in combinations(range(given.num_answers), n) if 0 in s or not given.keeps_first]
    picked = [choose(subset) for subset in subsets]
    return sum(at is not None and bool(given.right[at]) for at in picked) / len(subsets)


def highest(given):
    return lambda subset: max(subset, key=lambda at: (given.scores[at], -at))


def most_votes(given, weights):
    def choose(subset):
        votes = {}
        for at in subset:
            if given.classes[at] != NO_ANSWER:
                votes[given.classes[at]] = votes.get(given.classes[at], 0) + weights[at]
        if not votes:
            return None
        return next(at for at in subset if votes.get(given.classes[at]) == max(votes.values()))

    return choose


def test_two_of_three_by_hand():
    """Right, wrong, wrong with scores .5, .9, .1: of the pairs 01, 02 and 12 the best is 1, 0 and 1."""
    given = ballot("+--", "abb", [0.5, 0.9, 0.1])
    assert best_of(given, 2) == pytest.approx(1 / 3)
    assert pass_at(given, 2) == pytest.approx(2 / 3)
    assert vote(given, 2, np.ones(3)) == pytest.approx(2 / 3)  # ties of 01 and 02 go to who came first
    assert vote(given, 2, given.scores) == pytest.approx(1 / 3)
    assert vote(given, 3, np.ones(3)) == 0.0
    assert best_of(given, 1) == pass_at(given, 1) == pytest.approx(1 / 3)
    assert chosen(given) == 1


def test_of_equal_scores_the_first_is_chosen():
    assert chosen(ballot("-+", scores=[0.7, 0.7])) == 0
    assert best_of(ballot("-+", scores=[0.7, 0.7]), 2) == 0.0
    assert best_of(ballot("+-", scores=[0.7, 0.7]), 2) == 1.0


def test_answers_without_text_come_last_and_have_no_weight():
    given = ballot("+-", "ab", [-np.inf, 0.1])
    assert chosen(given) == 1 and vote(given, 2, np.where(np.isfinite(given.scores), given.scores, 0)) == 0.0
    assert expectations(given, 1)["weighted"] == 0.5


def test_who_gives_no_answer_does_not_vote():
    given = ballot("--+", "..a")
    assert vote(given, 3, np.ones(3)) == 1.0 and vote(given, 2, np.ones(3)) == pytest.approx(2 / 3)
    assert vote(ballot("--", ".."), 2, np.ones(2)) == 0.0


@pytest.mark.parametrize("keeps_first", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_every_way_is_what_all_subsets_say(seed, keeps_first):
    rng = np.random.default_rng(seed)
    names = rng.integers(-1, 3, 6)
    scores = rng.integers(1, 4, 6) / 4  # with ties
    given = Ballot((names == 1) & (rng.random(6) < 0.9), names, scores, keeps_first)
    for n in range(1, 7):
        found = expectations(given, n)
        assert found["best"] == pytest.approx(counted(given, n, highest(given)))
        assert found["majority"] == pytest.approx(counted(given, n, most_votes(given, np.ones(6))))
        assert found["weighted"] == pytest.approx(counted(given, n, most_votes(given, scores)))
        best_case = counted(given, n, lambda subset: max(subset, key=lambda at: given.right[at]))
        assert found["any"] == pytest.approx(best_case)
    assert found["one"] == pytest.approx(given.right[keeps_first:].mean())


def test_many_answers_are_measured_at_powers_of_two_over_seeded_subsets():
    assert sizes(5) == [1, 2, 3, 4, 5] and sizes(32) == [1, 2, 4, 8, 16, 32] and sizes(24) == [1, 2, 4, 8, 16, 24]
    subsets = draw_subsets(24, 8, keeps_first=True)
    assert subsets.shape == (1000, 24) and (subsets.sum(axis=1) == 8).all() and subsets[:, 0].all()
    assert len(draw_subsets(8, 4)) == 70
