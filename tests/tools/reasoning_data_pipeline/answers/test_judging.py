"""Judging the answers to one question, and the tidying of right answers."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tools.reasoning_data_pipeline.answers import judging
from tools.reasoning_data_pipeline.answers.checker import Outcome, Verdict
from tools.reasoning_data_pipeline.answers.judging import (
    Judge,
    JudgedAnswer,
    VerdictCache,
    cache_key,
    in_style,
    tidy_answer,
)


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


def test_a_right_answer_out_of_format_is_never_rejected():
    judge = Judge(ScriptedChecker(), ("math_score",))
    question = judge.judge(group("So it is 5. The answer is 5", "The answer is 6", "I do not know"))
    assert question.count("format_error") == 3
    assert [answer.text for answer in question.having("format_error") if answer.may_be_right] == [
        "So it is 5. The answer is 5"
    ]
    assert {answer.text for answer in question.rejectable("format_error")} == {"The answer is 6", "I do not know"}


def test_the_style_of_an_answer_is_kept_and_tidying_may_mend_it():
    remark = f"{final(5)}\nI hope this helps."
    bold = "So it is.\n**Answer: 5**"
    question = Judge(ScriptedChecker(), ("math_score",)).judge(group(remark, bold, final(5)))
    styles = {answer.text: answer.style for answer in question.having("correct")}
    assert styles == {remark: "a remark after the answer line", bold: "another answer line", final(5): ""}
    shown = {answer.text: in_style(answer.text, answer, "en") for answer in question.having("correct")}
    assert shown == {remark: False, bold: False, final(5): True}
    [with_remark] = [answer for answer in question.having("correct") if answer.text == remark]
    assert in_style(tidy_answer(with_remark, "en", "5"), with_remark, "en")


def test_the_judge_hands_the_options_of_a_row_on():
    class Asking(ScriptedChecker):
        def check(self, predicted, gold, modes, *, options=()):
            self.options = options
            return super().check(predicted, gold, modes, options=options)

    for extra, options in (({"choices": ["4", "5"]}, ("4", "5")), ({"choices": "no list"}, ()), ({}, ())):
        checker = Asking()
        Judge(checker, ()).judge([{**row, **extra} for row in group(final(5))])
        assert checker.options == options


def test_verdicts_are_kept_apart_by_options():
    assert cache_key("4", "A", ("mc_score",)) != cache_key("4", "A", ("mc_score",), ("4", "5"))


def test_a_change_of_any_check_forgets_the_verdicts(tmp_path, monkeypatch):
    folder = tmp_path / "answers"
    shutil.copytree(Path(judging.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(judging, "__file__", str(folder / "judging.py"))
    codes = [VerdictCache(tmp_path / "cache.jsonl").code]
    for source in sorted(folder.glob("*.py")):
        source.write_text(source.read_text() + "# changed\n")
        codes.append(VerdictCache(tmp_path / "cache.jsonl").code)
    assert len(set(codes)) == len(codes) > 20
