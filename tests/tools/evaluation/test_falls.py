"""Falls of held-out answers: hand-computed tests and their level."""

import pytest

from tools.evaluation.falls import RUN_LEVEL, Change


def binary(right_before, right_now):
    """Questions as (share before, share now), a letter each: r right, w wrong."""
    return [[float(letter == "r") for letter in word] for word in (right_before, right_now)]


def test_a_fall_is_tested_one_sided_and_paired():
    change = Change.of(*binary("rrrrrrrrww", "wwwwwwwwrw"))  # 8 worse, 1 better: P(at most 1 of 9 better) = 10 / 512
    assert (change.worse, change.better) == (8, 1)
    assert change.p == pytest.approx(10 / 512)
    assert change.difference == pytest.approx(-0.7)
    assert change.interval.low < -0.7 < change.interval.high < 0
    rise = Change.of(*binary("wwwwwwwwrw", "rrrrrrrrww"))
    assert rise.p == pytest.approx(1 - 1 / 512)  # P(at most 8 of 9)


def test_the_level_of_a_run_is_shared_by_its_looks():
    change = Change.of(*binary("rrrrrrrrww", "wwwwwwwwrw"))  # p = 0.0195
    assert change.fall(looks=2).startswith("held-out answers got worse: 10.0 % right, 80.0 % at the first look (-70.0")
    assert change.p > RUN_LEVEL / 3
    assert change.fall(looks=3) == ""


def test_what_would_be_a_fall_at_the_only_look_is_a_doubt_at_one_of_several():
    change = Change.of(*binary("rrrrrrrrww", "wwwwwwwwrw"))  # p = 0.0195
    assert change.doubt(looks=3).startswith("held-out answers may have got worse, the next look tells: 10.0 % right")
    assert "the limit of each of 3 looks 0.017)" in change.doubt(looks=3)
    assert change.doubt(looks=2) == ""  # a fall
    six_of_eight = Change.of(*binary("rrrrrrww", "wwwwwwrr"))  # P(at most 2 of 8) = 0.145
    assert (six_of_eight.fall(1), six_of_eight.doubt(3)) == ("", "")


def test_shares_of_several_answers_are_permuted():
    before, now = [0.75, 0.5, 1.0, 0.25, 0.5], [0.5, 0.25, 0.75, 0.0, 0.25]
    assert Change.of(before, now).p == pytest.approx(1 / 32)  # of 2 ** 5 sign patterns only one falls as far
    assert Change.of(now, before).p == 1.0


def test_equal_answers_are_no_fall():
    change = Change.of([1.0, 0.0], [1.0, 0.0])
    assert (change.p, change.difference, change.fall(1)) == (1.0, 0.0, "")
