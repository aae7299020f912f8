"""The score of an answer, by hand."""

import pytest

from internvl_chat.critic.answers import answer_score

SCORES = [0.9, 0.3, 0.6]


@pytest.mark.parametrize(("by", "score"), [("mean", 0.6), ("min", 0.3), ("last", 0.6)])
def test_the_score_of_an_answer(by, score):
    assert answer_score(SCORES, by=by) == pytest.approx(score)
    assert answer_score([0.25], by=by) == 0.25


def test_mean_is_what_is_taken_unless_said_otherwise():
    assert answer_score([0.0, 1.0, 1.0, 1.0]) == 0.75


@pytest.mark.parametrize(("scores", "by", "words"), [([], "mean", "without steps"), ([0.5], "max", "mean, min, last")])
def test_what_has_no_score_is_refused(scores, by, words):
    with pytest.raises(ValueError, match=words):
        answer_score(scores, by=by)
