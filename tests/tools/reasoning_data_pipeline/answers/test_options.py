"""Options of a question: where they stand, which one an answer names."""

import pytest

from tools.reasoning_data_pipeline.answers import AnswerChecker, Outcome, Question
from tools.reasoning_data_pipeline.answers.options import named_options, read_options, right_answers, spelled_options

FRACTIONS = ("2/7", "3/7", "5/7", "6/7")


@pytest.fixture(scope="module")
def checker():
    with AnswerChecker() as checker:
        yield checker


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"choices": ["cat", "dog"]}, ("cat", "dog")),
        ({"options": [1, 2.5]}, ("1", "2.5")),
        ({"options": {"A": "cat", "B": "dog"}}, ("cat", "dog")),
        ({"A": "cat", "B": "dog", "D": "cow"}, ("cat", "dog")),
        ({"choices": None}, ()),
        ({"choices": []}, ()),
        ({}, ()),
    ],
)
def test_options_of_a_row(fields, options):
    assert read_options(fields) == options


@pytest.mark.parametrize("found", ["cat, dog", 3, ["x"] * 27, {"first": "cat"}])
def test_what_is_no_list_of_options_is_an_error(found):
    with pytest.raises(ValueError, match="at most 26"):
        read_options({"choices": found})


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. cat\nB. the dog\nC. cow", ("cat", "the dog", "cow")),
        ("Which?\nChoices:\n(A) 2/7\n(B) 3/7", ("2/7", "3/7")),
        ("Which? (A) cat (B) dog", ("cat", "dog")),
        ("哪个？\nA、猫\nB、狗", ("猫", "狗")),
        ("Points A. and C. lie on it.", ()),
        ("Is (A) larger than (C)?", ()),
        ("How long is AB?", ()),
        ("", ()),
    ],
)
def test_options_that_a_question_spells(question, options):
    assert spelled_options(question) == options
    assert read_options({}, question) == options


def test_the_right_option_is_its_letter_and_its_text():
    assert right_answers("A", FRACTIONS) == ["A", "2/7"]
    assert right_answers("5/7", FRACTIONS) == ["C", "5/7"]
    assert right_answers("(b)", FRACTIONS) == ["B", "3/7"]
    assert right_answers("D", ("B", "A", "C")) is None
    assert right_answers("C", ("cat", "dog", "B")) == ["C"]  # "B" is the second option, whatever the third one says
    assert right_answers("E", FRACTIONS) is None
    assert right_answers("1/7", FRACTIONS) is None


def test_an_answer_names_an_option_by_letter_or_text_and_a_contradiction_names_two():
    assert named_options("(B)", FRACTIONS) == {1}
    assert named_options(r"\frac{3}{7}", FRACTIONS) == {1}
    assert named_options("B. 3/7", FRACTIONS) == {1}
    assert named_options("B. 2/7", FRACTIONS) == {0, 1}
    assert named_options("3.14", ("3.1416", "3.14", "3")) == {1}  # the same text before a rounding
    assert named_options("1/7", FRACTIONS) == set()


@pytest.mark.parametrize(
    ("predicted", "gold", "outcome"),
    [
        ("2/7", "A", Outcome.CORRECT),
        ("A", "2/7", Outcome.CORRECT),
        ("3/7", "A", Outcome.WRONG),
        ("B. 2/7", "A", Outcome.WRONG),
        ("B. 2/7", "B", Outcome.WRONG),
        ("1/7", "A", Outcome.WRONG),
        ("4/14", "A", Outcome.CORRECT),
    ],
)
def test_the_checker_knows_the_options(checker, predicted, gold, outcome):
    assert checker.check(predicted, gold, options=FRACTIONS).outcome is outcome
    question = "Which part is blue?" + "".join(
        f"\n{letter}. {text}" for letter, text in zip("ABCD", FRACTIONS, strict=True)
    )
    [verdict] = checker.check_many([Question(predicted, gold, question=question)])
    assert verdict.outcome is outcome
