"""Figures that can be told by hand."""

import random

import numpy as np
import pytest

from tools.critic_benchmark.metrics import (
    BINS,
    area_under_roc,
    best_threshold,
    calibration,
    counts_of,
    f1_scores,
    first_errors,
    macro_f1,
    measure,
    resampled_sums,
)


def test_macro_f1_by_hand():
    counts = np.array([3, 1, 2, 4])  # F1 of right steps 6 / (6 + 3), of wrong ones 8 / (8 + 3)
    assert f1_scores(counts) == pytest.approx([6 / 9, 8 / 11])
    assert macro_f1(counts) == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert macro_f1(np.array([0, 0, 0, 0])) == 0.0
    assert macro_f1(np.array([5, 0, 0, 0])) == 0.5  # nothing was wrong, nothing was caught


def test_a_step_is_right_above_the_threshold_only():
    judged = [(True, 0.85), (True, 0.86), (False, 0.85), (False, 0.86)]
    assert counts_of(judged, 0.85).tolist() == [1, 1, 1, 1]
    assert counts_of(judged, 0.0).tolist() == [2, 0, 2, 0]
    assert counts_of(judged, 1.0).tolist() == [0, 2, 0, 2]


def test_the_three_readings_by_hand(hand):
    """s1 has 1 kept, 1 missed, 1 passed; s2 has 1 kept, 4 caught."""
    report = measure(hand, 0.85)
    assert report["steps"] == {"right": 3, "wrong": 5, "neutral": 1, "without_score": 0}
    macro = {name: found["macro_f1"] for name, found in report["sources"].items()}
    assert macro == {"s1": 25.0, "s2": 100.0}
    overall = {name: report["overall"][name]["macro_f1"] for name in ("pooled", "weighted", "mean_of_sources")}
    assert overall == {"pooled": 73.33, "weighted": 71.88, "mean_of_sources": 62.5}
    assert (report["overall"]["f1_right"], report["overall"]["f1_wrong"]) == (66.67, 80.0)
    assert report["chance"] == {"always_right": 27.27, "coin": 49.21}
    assert [found["steps"] for found in report["sources"].values()] == [3, 5]


def test_another_threshold_moves_all_of_them(hand):
    """At 0 all steps but the one with score 0 are called right."""
    report = measure(hand, 0.0)
    assert report["sources"]["s1"]["macro_f1"] == 40.0  # 2 kept, 1 passed: 4 / 5 and 0
    assert report["sources"]["s2"]["macro_f1"] == 40.0  # 1 kept, 3 passed, 1 caught: 2 / 5 and 2 / 5
    assert report["overall"]["pooled"]["macro_f1"] == 46.67  # 3 kept, 4 passed, 1 caught: 6 / 10 and 2 / 6


def test_neutral_steps_and_steps_without_score_change_nothing_but_their_counts(judged, hand):
    more = judged([0, -1, 1], [0.99, None, None])
    found, before = measure([*hand, more], 0.85), measure(hand, 0.85)
    assert found["steps"] == {"right": 3, "wrong": 5, "neutral": 2, "without_score": 2}
    assert found["overall"]["pooled"]["macro_f1"] == before["overall"]["pooled"]["macro_f1"]
    assert (found["auc"], found["calibration"]) == (before["auc"], before["calibration"])
    with pytest.raises(ValueError, match="no step counts: all are neutral or without score"):
        measure([more._replace(scores=[0.5, None, None])], 0.85)


def test_first_errors_by_hand(judged, hand):
    """The first row's error is called one step early, the second row's is found, the third has none and is let pass."""
    rows = [*hand, judged([1, 1], [0.9, 0.95]), judged([0, 0], [0.1, 0.1])]
    found = first_errors(rows, 0.85)
    assert first_errors([judged([-1], [0.85])], 0.85)["with_error"] == 100.0  # at the threshold it is called wrong
    assert found == {
        "f1": 66.67,
        "with_error": 50.0,
        "without_error": 100.0,
        "rows_with_error": 2,
        "rows_without_error": 1,
    }


def test_the_area_under_the_curve_counts_pairs_and_half_of_ties():
    is_right = np.array([True, True, True, False, False, False, False, False])
    scores = np.array([0.9, 0.8, 0.9, 0.9, 0.2, 0.85, 0.1, 0.0])
    assert area_under_roc(is_right, scores) == 80.0  # 12 of 15 pairs
    assert area_under_roc(is_right, -scores) == 20.0
    assert area_under_roc(np.array([True]), np.array([0.3])) is None


def test_calibration_by_hand():
    is_right = np.array([True, False, True, False])
    found = calibration(is_right, np.array([0.9, 0.9, 1.0, 0.2]))
    assert found["bins"][9] == {"steps": 3, "mean_score": pytest.approx(2.8 / 3), "right": pytest.approx(2 / 3)}
    assert found["bins"][2] == {"steps": 1, "mean_score": 0.2, "right": 0.0}
    assert found["bins"][5] == {"steps": 0, "mean_score": None, "right": None} and len(found["bins"]) == BINS
    assert found["expected_error"] == 25.0  # 3/4 of 0.8/3 and 1/4 of 0.2


def test_intervals_cover_rows_not_steps(judged):
    same = [judged([1, -1], [0.9, 0.1]) for _ in range(5)]
    assert measure(same, 0.85)["overall"]["pooled"]["interval"] == [100.0, 100.0]
    mixed = [judged([1, -1], [0.9, 0.1 if i % 2 else 0.95]) for i in range(40)]
    found = measure(mixed, 0.85)["overall"]["pooled"]
    low, high = found["interval"]
    counts = np.array([[counts_of(one.judged, 0.85)] for one in mixed])
    drawn = macro_f1(resampled_sums(counts)[:, 0])
    assert np.mean((drawn >= low / 100 - 1e-4) & (drawn <= high / 100 + 1e-4)) == pytest.approx(0.95, abs=0.02)
    assert low < found["macro_f1"] < high < 100 and measure(mixed, 0.85)["overall"]["pooled"] == found
    wide_low, wide_high = measure(mixed[:10], 0.85)["overall"]["pooled"]["interval"]
    assert wide_high - wide_low > high - low


def test_resampled_sums_are_sums_of_as_many_rows():
    values = np.stack([np.ones(7), np.arange(7.0)], -1)
    drawn = resampled_sums(values)
    assert drawn.shape == (9_999, 2) and set(drawn[:, 0]) == {7.0}
    assert drawn[:, 1].mean() == pytest.approx(21, abs=0.3) and len(set(drawn[:, 1])) > 20


def test_the_best_threshold_is_that_of_trying_all():
    assert best_threshold([(True, 0.9), (True, 0.6), (False, 0.6), (False, 0.2)]) == 0.2  # as good as 0.6, and lower
    rng = random.Random(0)
    for size in (1, 5, 40):
        judged = [(rng.random() < 0.6, round(rng.random(), 1)) for _ in range(size)]
        tried = {t: float(macro_f1(counts_of(judged, t))) for t in {0.0, *(score for _, score in judged)}}
        assert tried[best_threshold(judged)] == pytest.approx(max(tried.values()))
