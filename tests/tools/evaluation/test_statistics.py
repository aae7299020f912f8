"""Intervals and paired tests against figures worked out by hand, votes, probes, comparisons."""

import math

import numpy as np
import pytest

from internvl_chat.records.rows import Prompt
from tools.evaluation.accuracy import accuracy, field_of
from tools.evaluation.answering import Answered, Vote, answer_rows, vote
from tools.evaluation.comparison import compare, paired, verdict
from tools.evaluation.probes import f1, judge_probes, measure_probes, polarity, score
from tools.evaluation.questions import AskedQuestion
from tools.evaluation.statistics import bootstrap, mcnemar, mean_interval, share_interval, sign_flip, wilson
from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, Outcome, Verdict, modes_for_dataset

RIGHT, WRONG, OPEN, NONE = Outcome.CORRECT, Outcome.WRONG, Outcome.UNDECIDED, Outcome.FORMAT_ERROR


def question(answer="1", key="k", **extra):
    return AskedQuestion(key, Prompt((), "q?", answer, extra), "q?", "en", (), answer, modes_for_dataset(""))


def answered(outcomes, majority=WRONG, key="k"):
    return Answered(question(key=key), ("r",) * len(outcomes), tuple(outcomes), Vote("1", majority, 1, False))


def test_wilson_by_hand():
    z = 1.959964
    centre, half = (0.3 + z**2 / 20) / (1 + z**2 / 10), z / (1 + z**2 / 10) * math.sqrt(0.021 + z**2 / 400)
    assert wilson(3, 10) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson(0, 0) == (0, 1)


def test_shares_of_right_and_wrong_get_wilsons_interval():
    assert share_interval([1.0, 0.0, 0.0]) == wilson(1, 3)
    assert share_interval([1.0, 1.0]) == wilson(2, 2) and wilson(2, 2).low < 0.5


def test_answers_to_one_question_are_no_independent_trials():
    """Ten answers that agree with each other are worth one: the interval is as wide as with one answer."""
    clustered = share_interval([0.99] * 10 + [0.01] * 10)
    assert clustered.high - clustered.low == pytest.approx(0.98 * 2 * 1.96 * math.sqrt(0.25 / 20), rel=0.1)
    assert wilson(100, 200).high - wilson(100, 200).low < 0.15 < clustered.high - clustered.low


def test_a_mean_without_spread_has_no_width():
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5) and mean_interval([0.0]) == (0.0, 0.0)


def test_a_repeat_gives_the_same_interval():
    values = [math.sqrt(n) % 1 for n in range(2, 30)]  # no two resamples have the same mean
    assert mean_interval(values) == mean_interval(values)


def test_the_bounds_of_a_mean_are_percentiles_of_the_resampled_means():
    """One 10 among ten values is drawn 0 to 3 times in more than 97.5 % of the resamples, 0 times in 35 %."""
    assert mean_interval([10.0] + [0.0] * 9) == (0.0, 3.0)


def test_a_repeat_of_a_test_with_too_many_sign_patterns_gives_the_same_p():
    differences = [math.sqrt(n) % 1 - 0.4 for n in range(2, 26)]
    assert 0.001 < sign_flip(differences) == sign_flip(differences) < 0.9


@pytest.mark.parametrize(("before", "after", "p"), [(1, 8, 2 * (1 + 9) / 2**9), (0, 5, 2 / 2**5), (3, 3, 1), (0, 0, 1)])
def test_mcnemar_by_hand(before, after, p):
    assert mcnemar(before, after) == pytest.approx(p)
    assert mcnemar(after, before) == pytest.approx(p)


def test_sign_flips_by_hand():
    """Of the 32 sign patterns of five equal differences two are as far out."""
    assert sign_flip([0.5] * 5) == pytest.approx(2 / 32)
    assert sign_flip([0.5, -0.5]) == 1 and sign_flip([0.0, 0.0]) == 1


def test_accuracy_counts_answers_and_questions():
    found = accuracy([answered([RIGHT, WRONG], RIGHT), answered([OPEN, NONE], OPEN)])
    assert found["percent"] == 25 and (found["questions"], found["answers"], found["correct"]) == (2, 4, 1)
    assert (found["format_errors"], found["undecided"]) == (1, 1)
    assert found["majority"]["percent"] == 50 and found["majority"]["undecided"] == 1
    assert "majority" not in accuracy([answered([RIGHT])])


def test_right_steps_are_counted_where_the_rows_have_a_right_response():
    solution = "7.\n\n3.\n\nFinal answer: 4"
    responses = [solution + "\n", "7.\n\nFinal answer: 4", "7.\n\n3.\n\nFinal answer: 5", "by luck"]
    judged = [
        Answered(
            question("4", right_response=solution), responses, (RIGHT, RIGHT, WRONG, WRONG), Vote("4", RIGHT, 2, False)
        )
    ]
    assert accuracy(judged)["right_steps"] == 25
    assert "right_steps" not in accuracy([*judged, answered([RIGHT])])


def voted(*predicted):
    texts = {"1": RIGHT, "2": WRONG, "?": OPEN, None: NONE}
    with AnswerChecker() as checker:
        return vote(checker, question(), [Verdict(texts.get(text, WRONG), text, "") for text in predicted])


def test_the_majority_is_the_answer_of_most():
    assert voted("2", "1", "1") == Vote("1", RIGHT, 2, False)
    assert voted("2", "1", "2", None, None, None).text == "2"


def test_equal_answers_vote_together():
    assert voted("0.5", "2", "2", r"\frac{1}{2}", "1/2") == Vote("0.5", WRONG, 3, False)


def test_of_a_tie_the_first_sampled_answer_wins():
    assert voted("2", "1") == Vote("2", WRONG, 1, True)
    assert voted("1", "2") == Vote("1", RIGHT, 1, True)


def test_an_undecided_majority_is_not_right():
    assert voted("?", "?", "1").outcome is OPEN
    assert accuracy([Answered(question(), ("r",) * 3, (OPEN, OPEN, RIGHT), voted("?", "?", "1"))])["majority"] == {
        "percent": 0.0,
        "interval": [0.0, pytest.approx(79.35, abs=0.01)],
        "correct": 0,
        "undecided": 1,
        "ties": 0,
    }


def test_responses_without_an_answer_make_no_majority():
    assert voted(None, None) == Vote(None, NONE, 0, False)


def test_fields_of_fields():
    assert field_of({"metadata": {"task": "count"}}, "metadata.task") == "count"
    assert field_of({"metadata": "x"}, "metadata.task") is None and field_of({}, "task") is None


def rows(**shares):
    """Answers of a way: key -> outcomes."""
    return {"reasoned": answer_rows("reasoned", [answered(outcomes, key=key) for key, outcomes in shares.items()])}


def test_one_answer_per_question_is_compared_by_mcnemar():
    found = compare(rows(a=[WRONG], b=[WRONG], c=[RIGHT]), rows(a=[RIGHT], b=[OPEN], c=[RIGHT]))["reasoned"]
    assert found["test"] == "exact McNemar" and found["p"] == 1.0
    assert (found["difference"], found["better"], found["worse"], found["questions"]) == (33.33, 1, 0, 3)
    assert "majority" not in found and "no difference is shown" in verdict("reasoned", found)


def test_several_answers_are_compared_by_a_permutation_test():
    found = paired([(0.0, 0.5)] * 6)
    assert found["test"] == "paired permutation" and found["p"] == pytest.approx(2 / 2**6, rel=1e-3)
    assert verdict("x", found).startswith("x: better (+50.00 points")
    assert verdict("x", paired([(0.5, 0.0)] * 6)).startswith("x: worse (-50.00 points")


def test_other_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="1 of now were not asked before and 2 of before not now"):
        compare(rows(a=[RIGHT], b=[RIGHT]), rows(c=[RIGHT]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes.", True),
        ("No, there is none", False),
        ("yes and no", None),
        ("nothing", None),
        ("没有", False),
        ("有", True),
    ],
)
def test_yes_and_no(text, said):
    assert polarity(text) is said


def test_probe_scores_by_hand():
    """3 there, 2 not: one hit, one miss, one unclear; one false alarm."""
    said = [(True, True), (True, False), (True, None), (False, True), (False, False)]
    found = score(said)
    assert (found["percent"], found["precision"], found["recall"]) == (40.0, 50.0, 33.33)
    assert found["f1"] == 40.0  # 2 * 1 / (3 + 2)
    assert (found["yes_rate"], found["unclear"], found["correct"]) == (40.0, 1, 2)
    assert found["f1_interval"][0] <= 40 <= found["f1_interval"][1]


def test_probes_are_judged_by_yes_and_no():
    probes = [question("yes", category="popular"), question("no"), question(False)]
    judged = judge_probes(probes, [["Yes"], ["maybe"], ["no"]])
    assert [one.outcomes for one in judged] == [(RIGHT,), (NONE,), (RIGHT,)]
    assert measure_probes(judged)["popular"]["questions"] == 1
    with pytest.raises(ValueError, match="must be yes or no, not 'blue'"):
        judge_probes([question("blue")], [["yes"]])


def test_a_bootstrap_keeps_rows_together():
    """With every answer right, F1 is 1 in every resample that has a positive; paired resampling keeps it so."""
    gold = np.array([True] * 10 + [False] * 5)
    assert bootstrap([gold, gold], f1) == (1.0, 1.0)
