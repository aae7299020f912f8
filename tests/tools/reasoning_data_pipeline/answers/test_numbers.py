"""Numbers and units: what is read, exactly, and when two agree."""

from fractions import Fraction

import pytest

from tools.reasoning_data_pipeline.answers.quantities import (
    Quantity,
    numbers_agree,
    quantities_agree,
    read_quantity,
)
from tools.reasoning_data_pipeline.answers.text import normalise
from tools.reasoning_data_pipeline.answers.units import NO_UNIT, Unit, read_unit


def read(text):
    return read_quantity(normalise(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("− 5", -5),
        ("+5", 5),
        ("1,234,567.5", Fraction("1234567.5")),
        ("1 234", 1234),
        (r"1\,000", 1000),
        ("1{,}000", 1000),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1e3", 1000),
        ("1.5e-3", Fraction(15, 10_000)),
        (r"6.02 \times 10^{23}", 602 * 10**21),
        ("10^{-2}", Fraction(1, 100)),
        ("-10^2", -100),
        ("1/3", Fraction(1, 3)),
        ("1 1/2", Fraction(3, 2)),
        ("1½", Fraction(3, 2)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"\frac12", Fraction(1, 2)),
        ("$5 million", 5_000_000),
        ("3rd", 3),
        ("third", 3),
        ("twenty-one", 21),
        ("two hundred and five", 205),
        ("three thousand two hundred", 3200),
        ("one million", 1_000_000),
        ("minus three", -3),
        ("none", 0),
        ("two thirds", Fraction(2, 3)),
        ("about 5", 5),
        ("≈5", 5),
        ("五", 5),
        ("十二", 12),
        ("二十一", 21),
        ("一百二十", 120),
        ("一千零五", 1005),
        ("三万五千", 35_000),
        ("二〇一九", 2019),
        ("三点一四", Fraction("3.14")),
        ("负三", -3),
        ("三分之一", Fraction(1, 3)),
        ("5", 5),
        ("𝟓", 5),
    ],
)
def test_numbers_are_read_exactly(text, value):
    quantity = read(text)
    assert quantity is not None
    assert quantity.value == value


@pytest.mark.parametrize(
    "text",
    ["", "cat", "5 6", "1,2", "12,34", "1.2.3", "0/0", "5/0", "1e999999999", "3:30", "x", "3x", "1-800-555",
     "5 is wrong", "one of them", "three and a cow", "9" * 500, "5 to 6", "nan", "inf", "点",
     "百分之", "5 / cm", "3 cats and 2 dogs"],
)  # fmt: skip
def test_what_is_no_number_is_none(text):
    assert read(text) is None


def test_percent_decimals_and_units_are_kept():
    assert read("50.5 %") == Quantity(Fraction("50.5"), decimals=1, exact=False, percent=True)
    assert read("百分之五十") == Quantity(Fraction(50), percent=True)
    assert read("$3") == Quantity(Fraction(3), unit=Unit(Fraction(1), (("USD", 1),)))
    assert read("3 dollars") == read("$3")


@pytest.mark.parametrize(
    ("text", "factor", "powers"),
    [
        ("cm", Fraction(1, 100), {"m": 1}),
        ("centimeters", Fraction(1, 100), {"m": 1}),
        ("厘米", Fraction(1, 100), {"m": 1}),
        ("cm^2", Fraction(1, 10_000), {"m": 2}),
        ("cm^{2}", Fraction(1, 10_000), {"m": 2}),
        ("square centimeters", Fraction(1, 10_000), {"m": 2}),
        ("sq. ft", Fraction(3048, 10_000) ** 2, {"m": 2}),
        ("km/h", Fraction(1000, 3600), {"m": 1, "s": -1}),
        ("kilometers per hour", Fraction(1000, 3600), {"m": 1, "s": -1}),
        ("m s^{-1}", Fraction(1), {"m": 1, "s": -1}),
        ("kg/m^3", Fraction(1000), {"g": 1, "m": -3}),
        ("degrees Celsius", Fraction(1), {"°C": 1}),
        ("apples", Fraction(1), {"apple": 1}),
        ("red apple", Fraction(1), {"apple": 1}),
        ("只猫", Fraction(1), {"猫": 1}),
    ],
)
def test_units_are_factors_and_dimensions(text, factor, powers):
    assert read_unit(text) == Unit(factor, tuple(sorted(powers.items())))


@pytest.mark.parametrize("text", ["", "units", "个", "square units"])
def test_units_that_say_nothing(text):
    assert read_unit(text) is NO_UNIT


@pytest.mark.parametrize("text", ["x", "ab", "is wrong", "and more", "角形", "m/", "x" * 100, "cm^x"])
def test_what_is_no_unit(text):
    assert read_unit(text) is None


@pytest.mark.parametrize(
    ("predicted", "gold", "agree"),
    [
        ("5 cm", "50 mm", True),
        ("5 cm", "5 mm", False),
        ("5 cm", "5", True),
        ("5 cm", "5 kg", False),
        ("2.54 cm", "1 inch", True),
        ("60 min", "1 hour", True),
        ("36 km/h", "10 m/s", True),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("50%", "5%", False),
        ("50%", "0.05", False),
        ("33.3%", "1/3", True),
        ("7 apples", "7 pears", False),
        ("$5", "€5", False),
    ],
)
def test_quantities_agree(predicted, gold, agree):
    assert quantities_agree(read(predicted), read(gold)) is agree
    assert quantities_agree(read(gold), read(predicted)) is agree


@pytest.mark.parametrize(
    ("predicted", "gold", "agree"),
    [
        ("2019", "2020", False),
        ("1000000", "1000001", False),
        ("3.14", "3.1416", True),
        ("3.1", "3.1416", False),
        ("12.34", "12.35", False),
        ("12.34", "12.3449", True),
        ("12.34", "12.36", False),
        ("4.9999", "5", True),
        ("4.99", "5", False),
        ("0.333", "1/3", True),
        ("0.33", "1/3", False),
        ("100.05", "100", False),
        ("1e20", "100000000000000000001", False),
    ],
)
def test_roundings_agree_and_neighbours_do_not(predicted, gold, agree):
    assert numbers_agree(read(predicted), read(gold)) is agree
    assert numbers_agree(read(gold), read(predicted)) is agree
