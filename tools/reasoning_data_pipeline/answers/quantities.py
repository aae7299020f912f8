"""Numbers as people write them, exactly: separators, fractions, scientific notation, words, percent, units.

    read_quantity("$1,234.50") == Quantity(Fraction(2469, 2), decimals=2, unit=USD)

Values are fractions, so 0.1 + 0.2 is 0.3 and 10^20 + 1 is not 10^20. When two numbers agree is decided in
`numbers_agree`.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from tools.reasoning_data_pipeline.answers.number_words import (
    HAN_NUMERALS,
    NOT_COUNTED,
    PARTS,
    english_number,
    han_number,
)
from tools.reasoning_data_pipeline.answers.units import NO_UNIT, Unit, read_measure, read_unit

MAX_DIGITS = 400
"""Longer numbers and larger powers of ten are compared as text."""
RELATIVE_TOLERANCE = Fraction(1, 1000)
"""How far a rounded number may be from the one it rounds: 3.14 from 3.1416, 28.27 from 9 pi."""
WHOLE_TOLERANCE = Fraction(1, 10_000)
"""How far a decimal may be from a whole number (4.9999 from 5); whole numbers agree with each other only exactly."""

_APPROXIMATELY = r"(?:approximately|approx\.?|about|around|roughly|nearly|almost|circa|[~≈]|大约|约为?)\s*"
_OPENING_APPROXIMATELY = re.compile(f"^{_APPROXIMATELY}")
_CURRENCY = r"US\$|[$€£¥₹₩]|RM|MYR|USD|EUR|GBP|CNY|JPY|INR|RMB|Rs\.?"
_DIGITS = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d+"
_NUMBER = rf"(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+)"
_SCALE_WORDS = "dozen|hundred|thousand|million|billion|trillion|百万|千万|万亿|万|亿"
_SCALE_LETTERS = (
    r"(?-i:(?:mn|bn|tn|[MBT])(?![\w°/*^])|(?<=\d)[kK](?![\w°/*^]))|(?(currency)(?-i:[mk])(?![\w°/*^])|(?!))"
)
_QUANTITY = re.compile(
    rf"(?:{_APPROXIMATELY}|#)?(?P<sign>[+-]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<minus>-?)"
    rf"(?:(?P<whole>\d+)?\s*(?:\\frac\s*(?P<fraction>\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}}|\d\s*\d)|(?P<slash>(?<!\d)\d+\s*/\s*\d+)(?!\d))"
    rf"|(?P<number>{_NUMBER})(?:[eE](?P<exponent>[+-]?\d+)|\s*(?:\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[+-]?\d+)\s*\}}?)?)"
    rf"(?P<ordinal>st|nd|rd|th)?(?![.\d])\s*(?P<scale>{_SCALE_WORDS}|{_SCALE_LETTERS})?\s*"
    r"(?P<percent>%|percent\b|per cent\b)?"
    r"(?P<unit>.*)",
    re.IGNORECASE,
)
_CONVERTED_DECIMALS = 12
"""What a unit was converted to is written as finely as anything."""
_POWER_OF_TEN = re.compile(r"(?P<sign>-?)10\s*(?:\^|\*\*)\s*\{?\s*(?P<power>[+-]?\d+)\s*\}?")
_SCALES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "百万": 6, "千万": 7, "万亿": 12, "万": 4,
    "亿": 8, "k": 3, "m": 6, "b": 9, "t": 12, "mn": 6, "bn": 9, "tn": 12,
}  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: exact; of a percentage the number before the sign.
        decimals: digits after the decimal point, 0 for a whole number or a fraction.
        exact: whether it is no rounded number: written without a decimal point.
        unit: factor and dimensions; `NO_UNIT` for a bare number.
        percent: written with a percent sign.
        also: the other thing that its spelling may mean: 300K is 300,000 or 300 kelvin.
    """

    value: Fraction
    decimals: int = 0
    exact: bool = True
    unit: Unit = NO_UNIT
    percent: bool = False
    also: Quantity | None = None

    def as_share(self) -> Fraction:
        """The value with the percent sign worked in: 50 % is 1/2."""
        return self.value / 100 if self.percent else self.value

    def in_unit(self, unit: Unit) -> Quantity:
        """The same amount in another unit of the same dimensions; units that are the same change nothing."""
        if unit == self.unit or not unit.powers or not self.unit.powers:
            return self
        value = (self.value * self.unit.factor + self.unit.offset - unit.offset) / unit.factor
        return Quantity(value, max(self.decimals, _CONVERTED_DECIMALS), value.denominator == 1 and self.exact, unit)


def read_quantity(text: str) -> Quantity | None:
    """The number that all of `text` spells, or None. `text` is normalised."""
    if len(text) > MAX_DIGITS or text[:2] in ("0x", "0X", "0b", "0o"):
        return None
    if text.isdecimal():
        return Quantity(Fraction(int(text)))
    power = _POWER_OF_TEN.fullmatch(text) if text.startswith(("10", "-10")) else None
    if power:
        value = _power_of_ten(power["power"])
        return None if value is None else Quantity(-value if power["sign"] else value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return _read_worded(text)
    unit, value = _unit(match), _value(match)
    if unit is None:
        return _read_compound(text)
    if value is None:
        return None
    number = match["number"] or ""
    scale = (match["scale"] or "").lower()
    decimals = max(0, len(number.partition(".")[2]) - _SCALES.get(scale, 0))
    also = read_quantity(text[:-1] + " K") if match["scale"] == "K" and text.endswith("K") else None
    return Quantity(value, decimals, "." not in number, unit, bool(match["percent"]), also)


_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([^\W\d_]{1,12}|[°'\"])(?:\s*(?:,|and\b)?\s*)")
_SMALLER = {"'": "ft", '"': "in"}


def _read_compound(text: str) -> Quantity | None:
    """1 h 20 min, 5 ft 4 in, 1小时10分: parts of one dimension, each unit smaller than the one before."""
    parts = list(_PART.finditer(text))
    if len(parts) < 2 or "".join(part[0] for part in parts) != text:
        return None
    names = [_SMALLER.get(part[2], part[2]) for part in parts]
    if {"小时", "时"} & set(names) or "秒" in names:
        names = [{"分": "分钟", "时": "小时"}.get(name, name) for name in names]
    units = [read_measure(name) for name in names]
    known = [unit for unit in units if unit is not None and unit.powers]
    if len(known) < len(units) or len({unit.powers for unit in known}) != 1:
        return None
    if any(larger.factor <= smaller.factor for larger, smaller in itertools.pairwise(known)):
        return None
    total = sum((Fraction(part[1]) * unit.factor for part, unit in zip(parts, known, strict=True)), Fraction(0))
    last = parts[-1][1]
    return Quantity(total / known[-1].factor, len(last.partition(".")[2]), "." not in last, known[-1])


def _unit(match: re.Match[str]) -> Unit | None:
    """The unit after the number or the currency before it; None where it is neither, or one too many."""
    unit = read_unit(match["unit"].strip())
    if unit is NO_UNIT:
        return read_unit(match["currency"] or "")
    return None if match["ordinal"] or match["currency"] else unit


def _value(match: re.Match[str]) -> Fraction | None:
    """Sign, digits and powers of ten together; None where the denominator is 0 or the power of ten too large."""
    number = _unsigned(match)
    if number is None:
        return None
    power, scale = match["exponent"] or match["power"], (match["scale"] or "").lower()
    if power or scale:
        shift = _power_of_ten(power or "0")
        if shift is None:
            return None
        number *= shift * (12 if scale == "dozen" else 10 ** _SCALES.get(scale, 0))
    return -number if (match["sign"] == "-") != (match["minus"] == "-") else number


def _unsigned(match: re.Match[str]) -> Fraction | None:
    if match["number"]:
        digits = match["number"].replace(",", "").replace(" ", "").rstrip(".")
        return Fraction(int(digits)) if digits.isdecimal() else Fraction(digits or "0")
    above, below = re.findall(r"\d+", match["slash"] or _spread(match["fraction"]))
    return Fraction(int(above), int(below)) + int(match["whole"] or 0) if int(below) else None


def _spread(fraction: str) -> str:
    r"""The two arguments of `\frac` apart: TeX reads `\frac12` as `\frac{1}{2}`."""
    return fraction if "{" in fraction else " ".join(fraction.replace(" ", ""))


def _power_of_ten(exponent: str) -> Fraction | None:
    return Fraction(10) ** int(exponent) if len(exponent) <= 5 and abs(int(exponent)) <= MAX_DIGITS else None


_HAN = re.compile(rf"(负?)([{HAN_NUMERALS}]+)(.*)")
_HAN_FRACTION = re.compile(rf"(?:([{HAN_NUMERALS}]+|\d+)又)?([{HAN_NUMERALS}]+)分之([{HAN_NUMERALS}]+|\d+(?:\.\d+)?)")


def _read_worded(text: str) -> Quantity | None:
    """A number in English or Chinese words, perhaps with what it counts."""
    text = _OPENING_APPROXIMATELY.sub("", text, count=1)
    if not text or (text[0].isdigit() and "又" not in text):
        return None
    return _read_english(text.lower()) if text.isascii() else _read_han_fraction(text) or _read_han(text)


def _read_english(text: str) -> Quantity | None:
    words = text.replace("-", " ").split()
    whole = " ".join(words)
    if whole in PARTS:
        return Quantity(PARTS[whole])
    value, used = english_number(words)
    rest = " ".join(words[used:])
    if not used or (rest and words[used - 1] in NOT_COUNTED):
        return None
    if rest in ("percent", "per cent", "%"):
        return Quantity(Fraction(value), percent=True)
    unit = read_unit(rest)
    return None if unit is None else Quantity(Fraction(value), unit=unit)


def _read_han_fraction(text: str) -> Quantity | None:
    """三分之一 is 1/3, 五又二分之一 is 11/2, 百分之五十 is 50 %."""
    sign = -1 if text.startswith("负") else 1
    match = _HAN_FRACTION.fullmatch(text.removeprefix("负"))
    if match is None:
        return None
    whole, below, above = (_counted(part or "零") for part in match.groups())
    if whole is None or not below or above is None:
        return None
    return Quantity(sign * above, percent=True) if match[2] == "百" else Quantity(sign * (whole + above / below))


def _counted(numerals: str) -> Fraction | None:
    return Fraction(numerals) if numerals.isascii() else han_number(numerals)


def _read_han(text: str) -> Quantity | None:
    match = _HAN.fullmatch(text)
    if match is None:
        return None
    value, unit = han_number(match[2]), read_unit(match[3])
    if value is None or unit is None:
        return None
    return Quantity(-value if match[1] else value, exact="点" not in match[2], unit=unit)


def quantities_agree(predicted: Quantity, gold: Quantity) -> bool:
    """Whether two quantities are the same amount: units convert, and one side may leave out unit or percent sign."""
    if predicted.also or gold.also:
        readings = [replace(one, also=None) for one in (predicted, predicted.also) if one]
        others = [replace(one, also=None) for one in (gold, gold.also) if one]
        return any(quantities_agree(one, other) for one in readings for other in others)
    if not units_agree(predicted, gold):
        return False
    if predicted.decimals < gold.decimals:
        predicted = predicted.in_unit(gold.unit)
    else:
        gold = gold.in_unit(predicted.unit)
    if numbers_agree(predicted, gold):
        return True
    return predicted.percent != gold.percent and _shares_agree(predicted, gold)


def units_agree(predicted: Quantity, gold: Quantity) -> bool:
    """Whether the units allow two quantities to be the same amount: a percentage is no kilogram, 5 kg no 5 m."""
    first, second = predicted.unit.powers, gold.unit.powers
    if predicted.percent != gold.percent:
        return not first and not second
    return not first or not second or first == second


def _shares_agree(predicted: Quantity, gold: Quantity) -> bool:
    tolerance = Fraction(0) if predicted.exact and gold.exact else RELATIVE_TOLERANCE
    return _close(predicted.as_share(), gold.as_share(), tolerance)


def numbers_agree(predicted: Quantity, gold: Quantity) -> bool:
    """Whether two numbers are equal, or one is the other rounded.

    Whole numbers and fractions agree only exactly (2019 is not 2020). A number with decimals may be a rounding, or a
    truncation, of one that is written more finely, or exactly, and within 1e-3 of it (3.14 of 3.1416); two of the same
    fineness must be equal (12.34 is not 12.35).
    """
    if predicted.value == gold.value:
        return True
    if predicted.exact == gold.exact and predicted.decimals == gold.decimals:
        return False
    difference = abs(predicted.value - gold.value)
    if predicted.value.denominator == 1 or gold.value.denominator == 1:
        return difference < Fraction(1, 100) and _close(predicted.value, gold.value, WHOLE_TOLERANCE)
    if not _close(predicted.value, gold.value, RELATIVE_TOLERANCE):
        return False
    if predicted.exact != gold.exact:
        return difference < Fraction(1, 10 ** (gold.decimals if predicted.exact else predicted.decimals))
    return difference < Fraction(1, 10 ** min(predicted.decimals, gold.decimals))


def _close(first: Fraction, second: Fraction, tolerance: Fraction) -> bool:
    return abs(first - second) <= tolerance * max(abs(first), abs(second))
