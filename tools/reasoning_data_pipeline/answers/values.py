"""What kind of thing an answer is: an option letter, a date, a time, a ratio, or one of `items`.

`read_value` looks at the form only. Parts (an option's text, list items, sides of an equation) stay text: whoever
compares two values compares their parts as answers of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from tools.reasoning_data_pipeline.answers.choices import Choice, Choices, Order, read_choice
from tools.reasoning_data_pipeline.answers.items import Equation, Items, read_items, read_labelled
from tools.reasoning_data_pipeline.answers.number_words import HAN_NUMERALS, han_number
from tools.reasoning_data_pipeline.answers.relations import Chain, intersection, read_condition, read_relation
from tools.reasoning_data_pipeline.answers.spans import Span, read_span

MAX_VALUE_CHARS = 1000


@dataclass(frozen=True)
class Date:
    """A date as the (year, month, day) it may mean: one for 25/12/2018, two for 05/06/2018. 0 is a missing part."""

    readings: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Time:
    """A time of day: hour as written, minute, second, and "a", "p" or "" for the half of the day."""

    hour: int
    minute: int
    second: int
    half: str


@dataclass(frozen=True)
class Ratio:
    """Two or more numbers in proportion.

    Attributes:
        terms: scaled so that the first non-zero one is 1.
        span: the range that the same words may mean: 30 to 45.
    """

    terms: tuple[Fraction, ...]
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Weekday:
    """A day of the week, 1 for Monday to 7."""

    day: int


Value = Choice | Choices | Order | Date | Time | Ratio | Weekday | Span | Equation | Chain | Items


def read_value(text: str) -> Value | None:
    """The value that all of `text`, normalised, spells; None for numbers, plain words and formulas."""
    if len(text) > MAX_VALUE_CHARS:
        return None
    return (
        read_labelled(text)
        or read_choice(text)
        or (_read_numeric(text) if _HAS_NUMBER.search(text) else _read_weekday(text))
        or read_condition(text)
        or _read_items(text)
        or read_relation(text)
    )


def _read_items(text: str) -> Items | None:
    items = read_items(text)
    return items and (intersection(items) or items)


def _read_numeric(text: str) -> Time | Date | Ratio | Span | None:
    return _read_time(text) or _read_date(text) or _read_ratio(text) or read_span(text)


_HAS_NUMBER = re.compile(r"\d|[一二两三四五六七八九十][点月]")
_WEEKDAY = re.compile(r"(?:周|星期|礼拜)([一二三四五六日天])")


def _read_weekday(text: str) -> Weekday | None:
    match = _WEEKDAY.fullmatch(text)
    return Weekday("一二三四五六日".index(match[1].replace("天", "日")) + 1) if match else None


_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*(?:([ap])\.?m\.?)?|(\d{1,2})\s*([ap])\.?m\.?", re.IGNORECASE)
_MONTHS = "janfebmaraprmayjunjulaugsepoctnovdec"
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:,? ?-?(?P<year>\d{4}))?"
_DATE_FORMS = (
    re.compile(r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})"),
    re.compile(r"(?:(?P<year>\d{4})年)?(?P<month>\d{1,2})月(?:(?P<day>\d{1,2})[日号])?"),
    re.compile(rf"(?:the )?{_DAY}(?: of)?[ -]{_MONTH}{_YEAR}", re.IGNORECASE),
    re.compile(rf"(?=.*\d){_MONTH}(?: {_DAY}(?!\d))?{_YEAR}", re.IGNORECASE),
)
_HAN = re.compile(f"[{HAN_NUMERALS}]+(?=[年月日号])")
_CHINESE_TIME = re.compile(
    r"(?P<half>上午|早上|凌晨|下午|晚上|傍晚)(?P<hour>\d{1,2}|[一二两三四五六七八九十]+)(?:[点时:](?P<minute>\d{1,2}|半)?分?整?)"
)
_DAY_AND_MONTH = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|(?<!\.)\d{2})")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)(?:\s*(?::|to|比)\s*(\d+(?:\.\d+)?))(?:\s*:\s*(\d+(?:\.\d+)?))?")


def _read_time(text: str) -> Time | None:
    chinese = _CHINESE_TIME.fullmatch(text) if not text.isascii() else None
    if chinese:
        hour = int(chinese["hour"]) if chinese["hour"].isascii() else int(han_number(chinese["hour"]) or 0)
        minute = 30 if chinese["minute"] == "半" else int(chinese["minute"] or 0)
        return Time(hour, minute, 0, ("p" if chinese["half"] in "下午晚上傍晚" else "a") if hour <= 12 else "")
    match = _TIME.fullmatch(text)
    if match is None or int(match[1] or match[5]) > 24:
        return None
    half = (match[4] or match[6] or "").lower()
    return Time(int(match[1] or match[5]), int(match[2] or 0), int(match[3] or 0), half)


def _read_date(text: str) -> Date | None:
    if "月" in text:
        text = _HAN.sub(lambda numerals: str(han_number(numerals[0])), text)
    for form in _DATE_FORMS:
        match = form.fullmatch(text)
        if match:
            return Date(((int(match["year"] or 0), _month_number(match["month"]), int(match["day"] or 0)),))
    match = _DAY_AND_MONTH.fullmatch(text)
    return _either_order(int(match[1]), int(match[3]), int(match[4])) if match else None


def _either_order(first: int, second: int, year: int) -> Date:
    """5/6/2020 is the fifth of June or the sixth of May."""
    return Date(tuple((year, month, day) for month, day in ((second, first), (first, second)) if month <= 12))


def _month_number(month: str) -> int:
    return int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) // 3 + 1


def _read_ratio(text: str) -> Ratio | None:
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    terms = [Fraction(term) for term in match.groups() if term]
    scale = next((term for term in terms if term), Fraction(1))
    return Ratio(tuple(term / scale for term in terms), read_span(text) if "to" in text else None)
