"""Log-probs of the first answers: means of right and wrong ones, their gap, and when it warns."""

import pytest

from tools.evaluation.followed import FirstAnswer, Followed


def answer(logp, *, right):
    return FirstAnswer([1], right, logp)


def test_right_and_wrong_answers_are_averaged_apart():
    first = [[answer(-1.0, right=True), answer(-2.0, right=False)], [answer(-3.0, right=True)]]
    found = Followed.of(first, [[-1.5, -5.0], [-2.5]])
    assert (found.right, found.wrong) == (-2.0, -5.0)
    assert (found.right_change, found.wrong_change) == (0.0, -3.0)
    assert found.gap_change == found.figures()["eval_logps/gap_change"] == 3.0


@pytest.mark.parametrize(("right", "wrong", "warns"), [(-2.0, -1.0, True), (-1.0, -2.0, False), (-2.0, -2.0, False)])
def test_only_right_answers_that_lose_more_than_wrong_ones_warn(right, wrong, warns):
    first = [[answer(-1.0, right=True), answer(-1.0, right=False)] for _ in range(20)]
    noise = [0.1 * (-1) ** question for question in range(20)]
    found = Followed.of(first, [[-1.0 + right + more, -1.0 + wrong] for more in noise])
    assert bool(found.warning()) is warns


def test_answers_of_one_kind_have_no_gap():
    assert Followed.of([[answer(-1.0, right=True)]], [[-2.0]]) is None
