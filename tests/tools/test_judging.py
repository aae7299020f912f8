"""Judging the answers to one question, and the tidying of right answers."""

import json
import time

import pytest

from tools.reasoning_data_pipeline.answers.checker import Outcome, Verdict
from tools.reasoning_data_pipeline.answers.judging import Judge, JudgedAnswer, tidy_answer


class ScriptedChecker:
    """Right is what equals the ground truth; "slow" takes its time, "?" cannot be told."""

    def __init__(self):
        self.asked = []

    def check(self, predicted, gold, modes, *, options=()):
        self.asked.append(predicted)
        if predicted == "slow":
            time.sleep(0.002)
        outcome = Outcome.CORRECT if predicted == gold else Outcome.WRONG
        return Verdict(Outcome.UNDECIDED if predicted == "?" else outcome, predicted, "scripted")

    def close(self):
        pass


def group(*responses, gold="5", version="en"):
    rows = [
        {"question": "Q?", "answer": gold, "question_orig": "Q", "response": text, "prompt_version": version}
        for text in responses
    ]
    return sorted(rows, key=json.dumps)


def final(answer):
    return f"So it is.\nFinal answer: {answer}"


def test_answers_are_told_apart_and_equal_finals_checked_once():
    checker = ScriptedChecker()
    other = "Another way.\nFinal answer: 5"
    question = Judge(checker, ("math_score",)).judge(group(final(5), final(5), final(6), final("?"), "no idea", other))
    assert {outcome: question.count(outcome) for outcome in ("correct", "wrong", "undecided", "format_error")} == {
        "correct": 3,
        "wrong": 1,
        "undecided": 1,
        "format_error": 1,
    }
    assert [answer.text for answer in question.having("correct")] == [other, final(5)]
    assert sorted(checker.asked) == ["5", "6", "?"]
    assert question.having("format_error")[0].rule == "no answer line"


def test_reasons_of_format_errors_are_grouped():
    question = Judge(ScriptedChecker(), ()).judge(group("\\boxed{5}", "x \\boxed{5}", version="en_v2"))
    assert {answer.rule for answer in question.answers} == {".. characters hold no rationale"}


def test_an_undecided_verdict_is_neither_learned_nor_believed():
    class Slow(ScriptedChecker):
        def check(self, predicted, gold, modes, *, options=()):
            time.sleep(0.002)
            return super().check(predicted, gold, modes, options=options)

    judge = Judge(Slow(), ("math_score",))
    judge.judge(group(final("?"), final(5)))
    assert list(judge.learned.values()) == [("correct", "scripted")]
    [key] = judge.learned
    again = Judge(ScriptedChecker(), ("math_score",), {key: ("undecided", "algebra")})
    assert again.judge(group(final(5))).count("correct") == 1


def test_slow_verdicts_are_learned_and_known_ones_not_asked_again():
    first = Judge(ScriptedChecker(), ("math_score",))
    first.judge(group(final("slow"), final(5)))
    assert list(first.learned.values()) == [("wrong", "scripted")]
    again = Judge(ScriptedChecker(), ("math_score",), first.learned)
    assert again.judge(group(final("slow"), final(5))).count("wrong") == 1
    assert again.checker.asked == ["5"]
    for other in (Judge(ScriptedChecker(), ("anls",), first.learned), Judge(ScriptedChecker(), (), first.learned)):
        other.judge(group(final("slow")))
        assert other.checker.asked == ["slow"]  # the key holds the modes


@pytest.mark.parametrize(
    ("text", "found", "rule", "gold", "tidied"),
    [
        ("Look.\n**Final Answer**: (A) cat", "(A) cat", "choice", "A", "Look.\nFinal answer: A"),
        ("Look.\nFinal answer: **japan.**", "japan.", "spelling", "Japan", "Look.\nFinal answer: Japan"),
        ("Look.\nFinal answer: 10.4", "10.4", "number", "10", "Look.\nFinal answer: 10.4"),
        ("Look.\nFinal answer: **.5**", ".5", "number", "1/2", "Look.\nFinal answer: .5"),
        ("Look.\nFinal answer:\n\n5", "5", "same text", "5", "Look.\nFinal answer: 5"),
        ("先看图。\n最终答案：B。", "B。", "choice", "B", "先看图。\n答案: B"),
        ("So the final answer: 5", "5", "same text", 5, "So the Final answer: 5"),
        (
            "Not Final answer: 4, but\nFinal answer: 5",
            "5",
            "same text",
            "5",
            "Not Final answer: 4, but\nFinal answer: 5",
        ),
    ],
)
def test_right_answers_are_tidied(text, found, rule, gold, tidied):
    assert tidy_answer(JudgedAnswer(text, found, "correct", rule), "en", gold) == tidied


@pytest.mark.parametrize("outcome", ["wrong", "undecided", "format_error"])
def test_no_other_answer_is_touched(outcome):
    text = "Look.\n**Final Answer**: (A) cat"
    assert tidy_answer(JudgedAnswer(text, "(A) cat", outcome, "choice"), "en", "A") == text


def test_boxed_answers_are_not_touched():
    text = "Answer: 5, so\n\\boxed{5}"
    assert tidy_answer(JudgedAnswer(text, "5", "correct", "same text"), "en_v2", "5") == text
