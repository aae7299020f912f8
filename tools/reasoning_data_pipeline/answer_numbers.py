"""Numbers as people write them, exactly: separators, fractions, scientific notation, words, percent, units.

    read_quantity("$1,234.50") == Quantity(Fraction(2469, 2), decimals=2, unit=USD)

Values are fractions, so 0.1 + 0.2 is 0.3 and 10^20 + 1 is not 10^20. When two numbers agree is decided in
`numbers_agree`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tools.reasoning_data_pipeline.answer_units import NO_UNIT, Unit, read_unit

MAX_DIGITS = 400
"""Longer numbers and larger powers of ten are compared as text."""
RELATIVE_TOLERANCE = Fraction(1, 1000)
"""How far a rounded number may be from the one it rounds: 3.14 from 3.1416, 28.27 from 9 pi."""
WHOLE_TOLERANCE = Fraction(1, 10_000)
"""How far a decimal may be from a whole number (4.9999 from 5); whole numbers agree with each other only exactly."""

_APPROXIMATELY = r"(?:approximately|approx\.?|about|around|roughly|nearly|almost|circa|[~≈]|大约|约为?)\s*"
_CURRENCY = r"US\$|[$€£¥₹]|RM|MYR|USD|EUR|GBP|CNY|JPY|INR|RMB|Rs\.?"
_DIGITS = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d+"
_NUMBER = rf"(?:(?:{_DIGITS})(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(
    rf"(?:{_APPROXIMATELY}|#)?(?P<sign>[+-]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<minus>-?)"
    rf"(?:(?P<whole>\d+)?\s*(?:\\frac\s*(?P<fraction>\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}}|\d\s*\d)|(?P<slash>(?<!\d)\d+\s*/\s*\d+)(?!\d))"
    rf"|(?P<number>{_NUMBER})(?:[eE](?P<exponent>[+-]?\d+)|\s*(?:\*|x)\s*10\s*(?:\^|\*\*)\s*\{{?\s*(?P<power>[+-]?\d+)\s*\}}?)?)"
    r"(?P<ordinal>st|nd|rd|th)?(?![.\d])\s*(?P<scale>hundred|thousand|million|billion|trillion|万|亿)?\s*"
    r"(?P<percent>%|percent\b|per cent\b)?"
    r"(?P<unit>.*)",
    re.IGNORECASE,
)
_POWER_OF_TEN = re.compile(r"(?P<sign>-?)10\s*(?:\^|\*\*)\s*\{?\s*(?P<power>[+-]?\d+)\s*\}?")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "万": 4, "亿": 8}


@dataclass(frozen=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: exact; of a percentage the number before the sign.
        decimals: digits after the decimal point, 0 for a whole number or a fraction.
        exact: whether it is no rounded number: written without a decimal point.
        unit: factor and dimensions; `NO_UNIT` for a bare number.
        percent: written with a percent sign.
    """

    value: Fraction
    decimals: int = 0
    exact: bool = True
    unit: Unit = NO_UNIT
    percent: bool = False

    def as_share(self) -> Fraction:
        """The value with the percent sign worked in: 50 % is 1/2."""
        return self.value / 100 if self.percent else self.value


def read_quantity(text: str) -> Quantity | None:
    """The number that all of `text` spells, or None. `text` is normalised."""
    if len(text) > MAX_DIGITS:
        return None
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        value = _power_of_ten(power["power"])
        return None if value is None else Quantity(-value if power["sign"] else value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return _read_worded(text)
    unit = read_unit((match["unit"] or "").strip())
    if unit is None or (match["ordinal"] and unit is not NO_UNIT):
        return None
    if match["currency"]:
        if unit is not NO_UNIT:
            return None
        unit = read_unit(match["currency"]) or NO_UNIT
    value = _value(match)
    if value is None:
        return None
    decimals = len((match["number"] or "").partition(".")[2])
    return Quantity(value, decimals, "." not in (match["number"] or ""), unit, bool(match["percent"]))


def _value(match: re.Match[str]) -> Fraction | None:
    """Sign, digits and powers of ten together; None where the denominator is 0 or the power of ten too large."""
    if match["number"]:
        value = Fraction(re.sub("[, ]", "", match["number"]).rstrip(".") or "0")
    else:
        above, below = (
            re.findall(r"\d+", match["slash"]) if match["slash"] else re.findall(r"\d+|\d", _spread(match["fraction"]))
        )
        if int(below) == 0:
            return None
        value = Fraction(int(above), int(below)) + int(match["whole"] or 0)
    shift = _power_of_ten(match["exponent"] or match["power"] or "0")
    if shift is None:
        return None
    value *= shift * 10 ** _SCALES.get((match["scale"] or "").lower(), 0)
    return -value if (match["sign"] == "-") != (match["minus"] == "-") else value


def _spread(fraction: str) -> str:
    r"""The two arguments of `\frac` apart: TeX reads `\frac12` as `\frac{1}{2}`."""
    return fraction if "{" in fraction else " ".join(fraction.replace(" ", ""))


def _power_of_ten(exponent: str) -> Fraction | None:
    return Fraction(10) ** int(exponent) if len(exponent) <= 5 and abs(int(exponent)) <= MAX_DIGITS else None


_ONES = """zero one two three four five six seven eight nine ten eleven twelve
thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SMALL = {
    **{word: value for value, word in enumerate(_ONES.split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), 2)},
    **{word: value for value, word in enumerate(_ORDINALS.split(), 1)},
    "none": 0, "dozen": 12,
}  # fmt: skip
_PARTS = {
    **dict.fromkeys(("half", "one half", "a half"), Fraction(1, 2)),
    **dict.fromkeys(("a quarter", "one quarter", "one fourth"), Fraction(1, 4)),
    "one third": Fraction(1, 3),
    "two thirds": Fraction(2, 3),
    "three quarters": Fraction(3, 4),
    "a dozen": Fraction(12),
}
_NOT_COUNTED = frozenset({"none", *_ORDINALS.split()})
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_HAN_DIGITS = {"零": 0, "〇": 0, **{digit: value for value, digit in enumerate("一二三四五六七八九", 1)}, "两": 2}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000}
_HAN = re.compile(r"(负?)([零〇一二三四五六七八九两十百千万亿点]+)(.*)")
_HAN_FRACTION = re.compile(r"(百|[零一二三四五六七八九两十百千]+)分之([零〇一二三四五六七八九两十百千点]+|[\d.]+)")


def _read_worded(text: str) -> Quantity | None:
    """A number in English or Chinese words, perhaps with what it counts."""
    first = text[:1]
    if not first or first.isdigit():
        return None
    return _read_english(text) if first.isascii() else _read_chinese(text)


def _read_english(text: str) -> Quantity | None:
    """twenty-one, two hundred and five, five cats, minus three."""
    words = re.sub(f"^{_APPROXIMATELY}", "", text.lower()).replace("-", " ").split()
    if " ".join(words) in _PARTS:
        return Quantity(_PARTS[" ".join(words)])
    sign = -1 if words and words[0] in ("minus", "negative") else 1
    words = words[sign == -1 :]
    total = part = used = 0
    for word in words:
        if word in _SMALL:
            part += _SMALL[word]
        elif word in _LARGE and used:
            part, total = (part * 100, total) if word == "hundred" else (0, total + part * _LARGE[word])
        elif not (word == "and" and used and words[used - 1] in _LARGE):
            break
        used += 1
    rest = " ".join(words[used:])
    percent = rest in ("percent", "per cent", "%")
    unit = NO_UNIT if percent else read_unit(rest)
    if not used or unit is None or (unit is not NO_UNIT and words[used - 1] in _NOT_COUNTED):
        return None
    return Quantity(Fraction(sign * (total + part)), unit=unit, percent=percent)


def _read_chinese(text: str) -> Quantity | None:
    """二十一, 三个, 三分之一, 百分之五十, 三点五."""
    text = re.sub(f"^{_APPROXIMATELY}", "", text)
    ratio = _HAN_FRACTION.fullmatch(text)
    if ratio:
        below, above = _han_value(ratio[1]), _han_value(ratio[2])
        if not below or above is None:
            return None
        return Quantity(above, percent=True) if ratio[1] == "百" else Quantity(above / below)
    match = _HAN.fullmatch(text)
    value = _han_value(match[2]) if match else None
    unit = read_unit(match[3]) if match else None
    if match is None or value is None or unit is None:
        return None
    return Quantity(-value if match[1] else value, exact="点" not in match[2], unit=unit)


def _han_value(digits: str) -> Fraction | None:
    """The number that Chinese digits spell, or plain digits as they are."""
    if digits.replace(".", "", 1).isdigit() and digits.isascii():
        return Fraction(digits)
    whole, point, decimals = digits.partition("点")
    if point:
        tail = "".join(str(_HAN_DIGITS.get(digit, "?")) for digit in decimals)
        head = _han_value(whole)
        return None if head is None or not tail.isdigit() else head + Fraction(int(tail), 10 ** len(tail))
    if len(whole) > 1 and all(digit in _HAN_DIGITS for digit in whole):  # 二〇一九: digit by digit
        return Fraction(int("".join(str(_HAN_DIGITS[digit]) for digit in whole)))
    total = section = digit = 0
    for character in whole:
        if character in _HAN_DIGITS:
            digit = _HAN_DIGITS[character]
        elif character in _HAN_SCALES:
            section, digit = section + (digit or 1) * _HAN_SCALES[character], 0
        else:
            total, section, digit = (total + section + digit) * 10 ** _SCALES[character], 0, 0
    return Fraction(total + section + digit) if whole else None


def quantities_agree(predicted: Quantity, gold: Quantity) -> bool:
    """Whether two quantities are the same amount: units convert, and one side may leave out unit or percent sign."""
    units = (predicted.unit, gold.unit)
    if units[0].powers and units[1].powers:
        if units[0].powers != units[1].powers:
            return False
        if units[0].factor != units[1].factor:
            return _close(predicted.value * units[0].factor, gold.value * units[1].factor, RELATIVE_TOLERANCE)
    if numbers_agree(predicted, gold):
        return True
    if predicted.percent == gold.percent:
        return False
    tolerance = Fraction(0) if predicted.exact and gold.exact else RELATIVE_TOLERANCE
    return _close(predicted.as_share(), gold.as_share(), tolerance)


def numbers_agree(predicted: Quantity, gold: Quantity) -> bool:
    """Whether two numbers are equal, or one is the other rounded.

    Whole numbers and fractions agree only exactly (2019 is not 2020). A number with decimals may be a rounding, or a
    truncation, of one that is written more finely and within 1e-3 of it (3.14 of 3.1416); two of the same fineness
    must be equal (12.34 is not 12.35).
    """
    if predicted.value == gold.value:
        return True
    if predicted.exact and gold.exact:
        return False
    if predicted.value.denominator == 1 or gold.value.denominator == 1:
        difference = abs(predicted.value - gold.value)
        return difference < Fraction(1, 100) and _close(predicted.value, gold.value, WHOLE_TOLERANCE)
    if not _close(predicted.value, gold.value, RELATIVE_TOLERANCE):
        return False
    if predicted.exact or gold.exact:
        return True
    coarse, fine = sorted((predicted, gold), key=lambda number: number.decimals)
    return coarse.decimals < fine.decimals and abs(coarse.value - fine.value) < Fraction(1, 10**coarse.decimals)


def _close(first: Fraction, second: Fraction, tolerance: Fraction) -> bool:
    return abs(first - second) <= tolerance * max(abs(first), abs(second))
