"""Properties of the comparison that hold for any answer."""

import string
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.reasoning_data_pipeline.answers.parsing import parse_answer
from tools.reasoning_data_pipeline.answers.quantities import read_quantity
from tools.reasoning_data_pipeline.answers.reading import read
from tools.reasoning_data_pipeline.answers.rules import compare
from tools.reasoning_data_pipeline.answers.text import normalise

MARKS = r"0123456789.,-+*/^=<>()[]{}\$%°π√∞≤∪|!?:;'_&# abxyAB是的和一二百"
anything = st.text(max_size=60) | st.text(alphabet=MARKS, max_size=40)
SPECIAL = {"and", "the", "not", "yes", "inf", "nan"}
words = st.text(alphabet=string.ascii_letters, min_size=3, max_size=10).filter(lambda word: word.lower() not in SPECIAL)
COMMON = settings(derandomize=True, deadline=None, max_examples=150)
integers = st.integers(min_value=-(10**12), max_value=10**12)


def agree(predicted, gold):
    return compare(read(predicted), read(gold)).agree


@given(anything)
@COMMON
def test_every_answer_equals_itself_and_itself_with_white_space_around(answer):
    assert agree(answer, answer) is True
    assert agree(f"  {answer}\n", answer) is True


@given(anything, anything)
@COMMON
def test_any_two_answers_compare_without_an_error(predicted, gold):
    assert agree(predicted, gold) in (True, False, None)


@given(anything)
@COMMON
def test_any_response_parses_without_an_error(response):
    for version in ("en", "zh", "en_v2", "zh_v2", "en_r1", "zh_r1"):
        parsed = parse_answer(response, version)
        assert (parsed.text is None) != (parsed.error == "")


@given(integers, integers)
@COMMON
def test_whole_numbers_agree_only_when_equal(first, second):
    assert agree(str(first), str(second)) is (first == second)


@given(integers)
@COMMON
def test_spellings_of_a_number_are_one_number(value):
    spellings = (
        f"{value:,}",
        f"{value}.0",
        f"${value}$",
        f"**{value}**",
        f"The answer is {value}.",
        rf"\boxed{{{value}}}",
    )
    assert all(agree(spelling, str(value)) for spelling in spellings)
    assert agree(str(-value), str(value)) is (value == 0)


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=1000))
@COMMON
def test_fractions_are_read_exactly(value):
    quantity = read_quantity(normalise(f"{value.numerator}/{value.denominator}"))
    assert quantity is not None
    assert quantity.value == value
    assert agree(rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}")


@given(st.decimals(min_value=1, max_value=10**6, places=4))
@COMMON
def test_a_rounding_of_a_decimal_agrees_and_a_neighbour_does_not(value):
    exact, neighbour = Fraction(value), f"{value + value / 100:.4f}"
    assert agree(f"{value:.3f}", f"{value:.4f}") is True
    assert abs(Fraction(neighbour) - exact) < exact / 1000 or not agree(neighbour, f"{value:.4f}")


@given(st.lists(words, min_size=2, max_size=6, unique_by=str.lower), st.randoms(use_true_random=False))
@COMMON
def test_lists_do_not_depend_on_order(items, random):
    shuffled = random.sample(items, len(items))
    assert agree(", ".join(shuffled), ", ".join(items)) is True
    assert agree(", ".join(items[1:]), ", ".join(items)) is False


@given(st.lists(integers, min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
@COMMON
def test_sets_do_not_depend_on_order_and_tuples_do(items, random):
    shuffled = random.sample(items, len(items))
    texts = [", ".join(map(str, values)) for values in (shuffled, items)]
    assert agree(rf"\{{{texts[0]}\}}", rf"\{{{texts[1]}\}}") is True
    assert agree(f"({texts[0]})", f"({texts[1]})") is (shuffled == items)


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 9))
@COMMON
def test_a_product_equals_its_expansion_and_no_other(first, second, scale):
    factors = f"{scale}(x+{first})(x+{second})"
    assert agree(factors, f"{scale}x^2+{scale * (first + second)}x+{scale * first * second}") is True
    assert agree(factors, f"{scale}x^2+{scale * (first + second)}x+{scale * first * second + 1}") is False


@given(st.sampled_from("ABCDEFGH"), st.sampled_from("ABCDEFGH"), words)
@COMMON
def test_option_letters_in_all_their_spellings(letter, gold, text):
    for spelling in (
        "{0}",
        "({0})",
        "{0}.",
        "{0})",
        "**{0}**",
        "Option {0}",
        r"\text{{{0}}}",
        "({0}) {1}",
        "{0}. {1}",
        "选项{0}",
    ):
        assert agree(spelling.format(letter, text), gold) is (letter == gold)
