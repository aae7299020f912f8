"""Numbers in English and Chinese words: twenty-one, two hundred and five, three quarters, 二十一, 三点五."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

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
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
PARTS = {
    **dict.fromkeys(("half", "one half", "a half"), Fraction(1, 2)),
    **dict.fromkeys(("a quarter", "one quarter", "one fourth"), Fraction(1, 4)),
    "one third": Fraction(1, 3), "two thirds": Fraction(2, 3), "three quarters": Fraction(3, 4),
    "a dozen": Fraction(12),
}  # fmt: skip
"""Phrases that are numbers only as a whole."""
NOT_COUNTED = frozenset({"none", *_ORDINALS.split()})
"""Number words that count no things: there are no `third apples`."""
_HAN_DIGITS = {"零": 0, "〇": 0, **{digit: value for value, digit in enumerate("一二三四五六七八九", 1)}, "两": 2}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000}
_HAN_GROUPS = {"万": 10**4, "亿": 10**8}
HAN_NUMERALS = "".join((*_HAN_DIGITS, *_HAN_SCALES, *_HAN_GROUPS, "点"))


def english_number(words: Sequence[str]) -> tuple[int, int]:
    """The number that the first words spell, and how many words that are; 0 words where they spell none."""
    negative = words[:1] in (["minus"], ["negative"])
    total = part = 0
    used = start = int(negative)
    for word in words[start:]:
        if word in _SMALL:
            part += _SMALL[word]
        elif word == "hundred":
            part = (part or 1) * 100
        elif word in _LARGE:
            total, part = total + (part or 1) * _LARGE[word], 0
        elif word != "and" or words[used - 1] not in _LARGE:
            break
        used += 1
    return (-1 if negative else 1) * (total + part), used if used > start else 0


def han_number(numerals: str) -> Fraction | None:
    """The number that Chinese numerals spell, by groups or digit by digit (二〇一九); None where they spell none."""
    whole, point, decimals = numerals.partition("点")
    if not whole or bool(point) != bool(decimals) or not set(decimals) <= set(_HAN_DIGITS):
        return None
    shown = [_HAN_DIGITS[digit] for digit in decimals]
    tail = sum((Fraction(digit, 10**place) for place, digit in enumerate(shown, 1)), Fraction(0))
    if len(whole) > 1 and set(whole) <= set(_HAN_DIGITS):
        return int("".join(str(_HAN_DIGITS[digit]) for digit in whole)) + tail
    return _han_groups(whole) + tail


def _han_groups(whole: str) -> Fraction:
    """三万五千 is 3 x 10,000 + 5 x 1,000; a scale without a digit before it counts once."""
    total = group = digit = 0
    for numeral in whole:
        if numeral in _HAN_DIGITS:
            digit = _HAN_DIGITS[numeral]
        elif numeral in _HAN_SCALES:
            group, digit = group + (digit or 1) * _HAN_SCALES[numeral], 0
        else:
            total, group, digit = (total + group + digit) * _HAN_GROUPS[numeral], 0, 0
    return Fraction(total + group + digit)
