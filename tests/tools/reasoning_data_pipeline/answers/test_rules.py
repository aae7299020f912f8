"""The comparison by kind, on the pairs of answers in `answer_cases/`, one `predicted ~ gold` a line."""

from pathlib import Path

import pytest

from tools.reasoning_data_pipeline.answers import formulas, rules
from tools.reasoning_data_pipeline.answers.item_rules import same_chain
from tools.reasoning_data_pipeline.answers.reading import read
from tools.reasoning_data_pipeline.answers.rules import Finding, Scope, compare

FOLDER = Path(__file__).parents[2] / "answer_cases"


def pairs(name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [tuple(line.rsplit(" ~ ", 1)) for line in lines]


def finding(predicted, gold, **scope):
    return compare(read(predicted), read(gold), Scope(**scope))


@pytest.mark.parametrize(("predicted", "gold"), pairs("equal.txt"))
def test_equal(predicted, gold):
    found = finding(predicted, gold)
    assert found.agree or found.rule == "algebra", found


@pytest.mark.parametrize(("predicted", "gold"), pairs("different.txt"))
def test_different(predicted, gold):
    assert not finding(predicted, gold).agree
    assert not finding(gold, predicted).agree


@pytest.mark.parametrize(
    ("predicted", "gold", "rule"),
    [
        ("**A**", "A", "same text"),
        ("5 cm", "50 mm", "number"),
        ("The cat.", "cat", "spelling"),
        ("(B) cat", "B", "choice"),
        ("15:30", "3:30 PM", "date, time or ratio"),
        ("2x + 1 = y", "y = 2x + 1", "equation"),
        ("Yes, it is.", "yes", "yes or no"),
        ("[0, 1)", "(0, 1)", "items"),
        (r"\sqrt{8}", r"2\sqrt{2}", "formula"),
        (r"period $\pi$", r"\pi", "sentence"),
        (r"\int_0^1 x dx", "0.5", "algebra"),
        ("cat", "dog", "different"),
    ],
)
def test_the_rule_that_decides_is_named(predicted, gold, rule):
    assert finding(predicted, gold).rule == rule


def test_only_algebra_leaves_a_comparison_open():
    assert finding(r"\int_0^1 x dx", "0.5") == Finding(None, "algebra")


def test_charts_take_five_percent_in_every_item():
    assert finding("9.6, 20", "10, 20", relaxed=True).agree
    assert not finding("9.6, 20", "10, 20").agree
    assert not finding("9.4, 20", "10, 20", relaxed=True).agree
    assert not finding("2019", "2020", relaxed=True).agree


def test_nesting_beyond_the_bound_is_text_only():
    deep = "{" * 12 + "1, 2" + "}" * 12
    assert finding(deep, deep).agree
    assert not finding(deep, deep.replace("1, 2", "2, 1")).agree


@pytest.mark.parametrize("size", [100, 1000, 5000, 20_000])
@pytest.mark.parametrize(
    "unit", ["(", "{", "\\frac{", "x^", "9**", "1,", "-", "|", "a b ", "\\boxed{", "$", "5", "是", "[0,"]
)
def test_long_repetitions_are_read_quickly(unit, size):
    text = unit * (size // len(unit))
    assert not finding(text, "1").agree
    assert finding(text, text + " ").agree


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        ("the answer is not $5$", "5"),  # a denial says nothing
        ("it is not 5", "5"),
        (r"\{1,1,2\}", r"\{1,2,2\}"),  # how often an item is there counts
        ("1, 1, 2", "1, 2, 2"),
        ("(2, 1)", "1, 2"),  # brackets make the order count, also on one side
        ("1, 2", "(2, 1)"),
        ("red, red", "red"),
    ],
)
def test_what_no_rule_may_call_equal(predicted, gold):
    assert finding(predicted, gold).agree is False
    assert finding(gold, predicted).agree is False


def test_a_year_is_no_measurement_and_other_numbers_are():
    assert not finding("1850", "1900", relaxed=True).agree
    assert not finding("1801", "1800", relaxed=True).agree
    assert not finding("2099", "2100", relaxed=True).agree
    assert finding("1799", "1798", relaxed=True).agree
    assert finding("2101", "2150", relaxed=True).agree
    assert finding("1850.5", "1900", relaxed=True).agree


def test_units_of_charts_must_agree_where_both_sides_give_one():
    assert not finding("£12", "$12", relaxed=True).agree
    assert finding("12", "$12", relaxed=True).agree
    assert finding("7100 g", "7 kg", relaxed=True).agree
    assert not finding("7 tons", "7 kg", relaxed=True).agree


@pytest.mark.parametrize("first", ["f(1)<f(2)<f(3)", "AB>BC>CA", "x_1<x_2≤x_3", "a<b", "v_A>v_B=v_C"])
def test_orders_of_names_are_decided_at_once_and_without_algebra(first):
    for second in ("f(2)<f(1)<f(3)", "AB>CA>BC", "x_2<x_1≤x_3", "b<a", "v_B>v_A=v_C", "p<q<r<s"):
        assert finding(first, second) in (Finding(False, "order"), Finding(False, "items"), Finding(False, "different"))
        assert finding(first, first.replace("<", " < ").replace(">", " > ")).agree


def test_a_chain_of_names_costs_few_comparisons_and_no_formula(monkeypatch):
    asked = []
    compare = rules.compare
    scope = Scope(compare=lambda *pair: (asked.append(pair), compare(*pair))[1])
    monkeypatch.setattr(formulas, "proportion", lambda *pair: pytest.fail("a chain of names was taken for a formula"))
    names = [f"v_{letter}" for letter in "ABCDEFGHIJKL"]
    assert same_chain(read("<".join(names)), read("<".join(reversed(names))), scope) is False
    assert same_chain(read("<".join(names)), read(" < ".join(names)), scope) is True
    assert len(asked) <= 2 * len(names)
