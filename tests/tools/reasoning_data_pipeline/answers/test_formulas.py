"""Formulas and values: what is read, what it is worth, and what never costs more than its length."""

import cmath
import math
import time
from fractions import Fraction

import pytest

from tools.reasoning_data_pipeline.answers.expression_values import (
    evaluate,
    formulas_agree,
    proportion,
    value_at,
)
from tools.reasoning_data_pipeline.answers.expressions import UnreadableFormula, read_formula, sample_points
from tools.reasoning_data_pipeline.answers.formulas import equal_formulas, needs_algebra
from tools.reasoning_data_pipeline.answers.items import Equation, Items
from tools.reasoning_data_pipeline.answers.text import is_wordy, normalise, word_key
from tools.reasoning_data_pipeline.answers.values import Choice, Choices, Date, Ratio, Time, read_value


def formula(text):
    return read_formula(normalise(text))


def value(text, **point):
    return evaluate(formula(text).root, {name: Fraction(number) for name, number in point.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("2-3-4", -5),
        ("8/4/2", 1),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("2^{-1}", Fraction(1, 2)),
        ("2*-3", -6),
        (r"\frac{1}{2}+\frac13", Fraction(5, 6)),
        (r"3\frac{1}{2}", Fraction(3, 2)),  # a product in a formula; a mixed number is read before formulas are
        (r"\sqrt{16}", 4),
        (r"\sqrt[3]{-27}", -3),
        (r"\sqrt9", 3),
        (r"\frac12. + 1", Fraction(3, 2)),
        ("√4", 2),
        ("5!", 120),
        (r"\binom{5}{2}", 10),
        ("50%", Fraction(1, 2)),
        ("|-5|", 5),
        ("|1-3|+1", 3),
        ("1,000+1", 1001),
    ],
)
def test_rational_values_are_exact(text, expected):
    assert value(text) == expected
    assert isinstance(value(text), Fraction)


@pytest.mark.parametrize("text", [r"\sqrt a2", r"\sqrt{a}*2"])
def test_a_command_takes_one_letter_of_a_name_which_is_then_the_name(text):
    assert formula(text).names == ("a",)
    assert value(text, a=9) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\pi", math.pi),
        ("2pi", 2 * math.pi),
        (r"\sin 30°", 0.5),
        (r"\sin^2 1+\cos^2 1", 1),
        (r"\sin^{-1} 1", math.pi / 2),
        (r"\log_2 8", 3),
        (r"\log 100", 2),
        (r"\ln e", 1),
        (r"e^{i\pi}", -1),
        (r"\sqrt{2}", math.sqrt(2)),
        (r"\tan\frac{\pi}{4}", 1),
        (r"\sec 0", 1),
    ],
)
def test_values_of_functions(text, expected):
    assert cmath.isclose(complex(value(text)), expected, abs_tol=1e-12)


def test_names_take_their_values():
    assert value("2ab+x", a=3, b=5, x=7) == 37
    assert formula("2ab+x_1").names == ("a", "b", "x_1")
    assert value("x(x-1)", x=4) == 12
    assert value("2x^2y", x=3, y=2) == 36


@pytest.mark.parametrize(
    "text",
    ["", "abcde food", "(1", "1)", "|1", "1 2", "eval('1')", r"\frac{1}", r"\unknown", "x;y", "*2", "2**", "abcdef",
     "a=b", "(" * 100 + "1" + ")" * 100 + "+1", "1+" * 300 + "1", "x^" * 60 + "x"],
)  # fmt: skip
def test_what_is_no_formula_says_so(text):
    with pytest.raises(UnreadableFormula):
        read_formula(text)


@pytest.mark.parametrize(
    "text", ["9^9^9", "10^{10^{10}}", "((5!)!)!", "1000000000!", r"\binom{1000000}{500000}", "1/0", "0/0", "0^{-1}"]
)
def test_bombs_and_undefined_values_have_no_value_and_cost_nothing(text):
    begin = time.process_time()
    assert value_at(formula(text).root, {}) is None
    assert time.process_time() - begin < 0.1
    assert formulas_agree(formula(text), formula("5")) is False


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2+1", "(x-1)(x+1)", False),
        ("|x|", "x", False),
        (r"\sqrt{x^2}", "|x|", True),
        (r"\frac{x^2-1}{x-1}", "x+1", True),
        (r"\sin 2x", r"2\sin x\cos x", True),
        (r"\sin 2x", r"2\sin x", False),
        ("x", "y", False),
        ("x-x", "0", True),
        ("0.5x", "x/2", True),
        (r"9\pi", "28.27", True),
        (r"9\pi", "28.4", False),
        (r"\frac{22}{7}", r"\pi", False),
        ("2^{100}", "2^{100}+1", False),
        (r"\sqrt{2}", "1.41421356", True),
        ("3+4i", "4i+3", True),
        ("3+4i", "3-4i", False),
    ],
)
def test_formulas_agree_by_value(first, second, agree):
    assert formulas_agree(formula(first), formula(second)) is agree


def test_equations_are_proportional_terms():
    assert proportion(formula("2x-y+1"), formula("y-2x-1")) == -1
    assert proportion(formula("2x-y+1"), formula("6x-3y+3")) == Fraction(1, 3)
    assert proportion(formula("2x-y+1"), formula("2x-y-1")) == 0
    assert proportion(formula("1/0"), formula("x")) is None


def test_sample_points_have_both_signs_and_no_two_names_alike():
    points = sample_points(("x", "y"))
    assert len(points) == 8
    assert {point["x"] > 0 for point in points} == {True, False}
    assert all(abs(point["x"]) != abs(point["y"]) for point in points)


def test_units_and_degrees_may_be_left_out_of_formulas():
    assert equal_formulas("25π cm^{2}", "25π") is True
    assert equal_formulas("25π cm^{2}", "25π m^{2}") is False
    assert equal_formulas("60°+30°", "90") is True
    assert equal_formulas("cat", "act") is None


@pytest.mark.parametrize(
    ("predicted", "gold", "needed"),
    [
        (r"\int_0^1 x dx", "1", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
        ("x^2<4", "(-2,2)", False),
        ("x^2<4", "-2<x<2", True),
        (r"\int_0^1 x dx", "the integral", False),
        (r"\int_0^{1 x dx", "1", False),
        (r"\int" + "x" * 400, "1", False),
        ("5", "6", False),
    ],
)
def test_algebra_is_asked_only_where_it_can_help(predicted, gold, needed):
    assert needs_algebra(predicted, gold) is needed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(b) dog", Choice("B", "dog")),
        ("Ａ", Choice("A")),
        ("B（猫）", Choice("B", "猫")),
        ("A cat", None),
        ("f(x)", None),
        ("A, C and B", Choices(("A", "B", "C"))),
        ("AAB", None),
        ("3:30 p.m.", Time(3, 30, 0, "p")),
        ("3 pm", Time(3, 0, 0, "p")),
        ("25:00", Ratio((Fraction(1), Fraction(0)))),
        ("4:6", Ratio((Fraction(1), Fraction(3, 2)))),
        ("25/12/2018", Date(((2018, 12, 25),))),
        ("05/06/2018", Date(((2018, 6, 5), (2018, 5, 6)))),
        ("2018-12-25", Date(((2018, 12, 25),))),
        ("2018年12月", Date(((2018, 12, 0),))),
        ("5th of January, 2020", Date(((2020, 1, 5),))),
        ("May", None),
        ("x = 3", Equation("x", "3")),
        ("x = 1, 2", Equation("x", "1, 2")),
        ("x=1, y=2", Items(("x=1", "y=2"))),
        ("red or blue", Items(("red", "blue"), closing="or")),
        ("1,234, 5", Items(("1,234", "5"))),
        (r"\{1, 2\}", Items(("1", "2"), "⦃", "⦄")),
        ("[0, 1)", Items(("0", "1"), "[", ")")),
        ("x ≤ 2", Items(("-∞", "2"), "(", "]", "x")),
        ("5 > t", Items(("-∞", "5"), "(", ")", "t")),
        ("1 < x <= 2", Items(("1", "2"), "(", "]", "x")),
        ("2 >= x > 1", Items(("1", "2"), "(", "]", "x")),
        (r"x=\pm 3", Items(("x= 3", "x=- 3"), "±")),
        (r"(0,1)\cup(2,3)", Items(("(0,1)", "(2,3)"), "∪")),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", Items(("1", "2", "3", "4"), "matrix 2x2")),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", Items(("1", "2", "3", "4"), "vmatrix 2x2")),
        ("a cat", None),
        ("1, " * 100 + "1", None),
    ],
)
def test_kinds_of_values(text, expected):
    assert read_value(normalise(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**B. cat**", "B. cat"),
        (r"$\boxed{\text{D}}$", "D"),
        ("The answer is 5.", "5"),
        ("Option B is wrong, so the answer is C", "C"),
        ("答案：B。", "B"),
        ("故选B", "B"),
        ("((((1))))", "1"),
        ("(1)(2)", "(1)(2)"),
        ("(1,2)", "(1,2)"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"100^\circ", "100°"),
        (r"x\leq 5", "x≤ 5"),
        ("5 cm²", "5 cm^{2}"),
        (r"0.1\overline{6}", "15/90"),
        ("e\u0301", "é"),
        ("“it’s”", "it's"),
        ("?", "?"),
        ("5!", "5!"),
        ("C#", "C#"),
        ("{{", "{{"),
        ("", ""),
    ],
)
def test_one_spelling(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("An apple", "apple"),
        ("U.S.A.", "USA"),
        ("ice-cream", "ice cream"),
        ("don't", "dont"),
        ("two cats", "2 cats"),
        ("N/A", "NA"),
    ],
)
def test_words_without_what_does_not_count(first, second):
    assert word_key(normalise(first)) == word_key(normalise(second)) is not None


@pytest.mark.parametrize("text", ["x+1", "|x|", "n!", "(1,2)", "x>5", "O+", "5"])
def test_mathematics_is_not_words(text):
    assert not is_wordy(text)
    assert word_key(text) is None


@pytest.mark.parametrize("text", [r"\frac.52", r"\frac1.", r"\sqrt.5"])
def test_a_command_takes_no_point_for_a_digit(text):
    with pytest.raises(UnreadableFormula):
        read_formula(text)
