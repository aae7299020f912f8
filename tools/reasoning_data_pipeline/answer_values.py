"""What kind of thing an answer is: an option letter, a date, a time, a ratio, an equation, or several answers together.

`read_value` looks at the form only. Parts (list items, interval ends, sides of an equation) stay text: whoever compares two values compares
their parts as answers of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_ITEMS = 64
MAX_VALUE_CHARS = 1000


@dataclass(frozen=True)
class Choice:
    """An option: its upper-case letter and, where given, its text ("" without)."""

    letter: str
    text: str = ""


@dataclass(frozen=True)
class Choices:
    """Several options chosen together: their letters, sorted."""

    letters: tuple[str, ...]


@dataclass(frozen=True)
class Date:
    """A date as the (year, month, day) it may mean; 25/12/2018 has one such reading, 05/06/2018 two, and 0 stands for a missing part."""

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
    """Two or more numbers in proportion, scaled so that the first non-zero one is 1."""

    terms: tuple[Fraction, ...]


@dataclass(frozen=True)
class Equation:
    """The two sides of one equality sign; of a chain a = b = c the first and the last."""

    left: str
    right: str


@dataclass(frozen=True)
class Items:
    """Several answers together.

    Attributes:
        items: their texts.
        opening: "(", "[", "⦃", "∪" of a union, "±", "matrix 2x2", or "" for a list without brackets.
        closing: the closing bracket, or the word between the items of a list: "," or "or".
        variable: the variable of an interval that was written as an inequality, else "".
    """

    items: tuple[str, ...]
    opening: str = ""
    closing: str = ","
    variable: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the order of the items means something: in tuples, intervals and matrices, not in sets, unions and lists."""
        return self.opening not in ("", "⦃", "∪", "±")


Value = Choice | Choices | Date | Time | Ratio | Equation | Items


@lru_cache(maxsize=16384)
def read_value(text: str) -> Value | None:
    """The value that all of `text`, normalised, spells; None for numbers, plain words and formulas."""
    if len(text) > MAX_VALUE_CHARS:
        return None
    return (
        _read_choice(text)
        or (_read_time(text) or _read_date(text) or _read_ratio(text) if _HAS_DIGIT.search(text) else None)
        or _read_items(text)
        or _read_relation(text)
    )


_HAS_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?")
_LETTER_AND_TEXT = re.compile(r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])\s?(?:[.:)、]| - ))\s*(\S.*)", re.DOTALL)
_LETTER_AND_GLOSS = re.compile(r"([A-Z])\s*\(([^()]*(?:[^\W\d_]{2}|[^\x00-\x7f])[^()]*)\)")
_LETTERS = re.compile(
    r"(?:[Bb]oth )?\(?[A-H]\)?(?:\s*(?:,|、|;|&|和|\band\b)\s*(?:and\s)?\s*\(?[A-H]\)?)+|[A-H]{2,8}|[A-H](?: [A-H])+"
)


def _read_choice(text: str) -> Choice | Choices | None:
    letter = _LETTER.fullmatch(text)
    if letter:
        return Choice(letter[1].upper())
    with_text = _LETTER_AND_TEXT.fullmatch(text)
    if with_text:
        return Choice((with_text[1] or with_text[2] or with_text[3]).upper(), with_text[4].strip())
    gloss = _LETTER_AND_GLOSS.fullmatch(text)
    if gloss:
        return Choice(gloss[1], gloss[2].strip())
    if _LETTERS.fullmatch(text):
        letters = re.findall("[A-H]", re.sub("^[Bb]oth ", "", text))
        return Choices(tuple(sorted(letters))) if len(set(letters)) == len(letters) else None
    return None


_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*(?:([ap])\.?m\.?)?", re.IGNORECASE)
_NUMERIC_DATE = re.compile(r"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})|(\d{4})年(\d{1,2})月(?:(\d{1,2})[日号])?")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_NAMED_DATE = re.compile(
    r"(?:the )?(?:(\d{1,2})(?:st|nd|rd|th)?(?: of)?[ -])?(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?(?: (\d{1,2})(?:st|nd|rd|th)?(?!\d))?(?:,? ?-?(\d{4}))?",
    re.IGNORECASE,
)
_RATIO = re.compile(r"(\d+(?:\.\d+)?)(?:\s*(?::|to|比)\s*(\d+(?:\.\d+)?))(?:\s*:\s*(\d+(?:\.\d+)?))?")


def _read_time(text: str) -> Time | None:
    match = _TIME.fullmatch(text)
    if match is None or int(match[1]) > 24:
        return None
    return Time(int(match[1]), int(match[2]), int(match[3] or 0), (match[4] or "").lower())


def _read_date(text: str) -> Date | None:
    numeric = _NUMERIC_DATE.fullmatch(text)
    if numeric:
        if numeric[5] or len(numeric[1]) == 4:
            year, month, day = (
                int(part or 0) for part in (numeric.group(5, 6, 7) if numeric[5] else numeric.group(1, 3, 4))
            )
            return Date(((year, month, day),))
        if len(numeric[4]) not in (2, 4) or len(numeric[1]) > 2 or (numeric[2] == "." and len(numeric[4]) == 2):
            return None
        first, second, year = int(numeric[1]), int(numeric[3]), int(numeric[4])
        return Date(
            tuple((year, month, day) for month, day in ((second, first), (first, second)) if month <= 12 and day <= 31)
        )
    named = _NAMED_DATE.fullmatch(text)
    if named and (named[1] or named[3] or named[4]):
        return Date(((int(named[4] or 0), _MONTHS.index(named[2][:3].lower()) + 1, int(named[1] or named[3] or 0)),))
    return None


def _read_ratio(text: str) -> Ratio | None:
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    terms = [Fraction(term) for term in match.groups() if term]
    scale = next((term for term in terms if term), Fraction(1))
    return Ratio(tuple(term / scale for term in terms))


_OPENINGS = {"(": ")", "[": "]", "{": "}", "⦃": "⦄"}
_CLOSINGS = frozenset(_OPENINGS.values())
_SEPARATOR = re.compile(r"\s*[,;、]\s*(?:(?:and|or)\s+)?|\s+(?:and|or|&)\s+|\s*[和或]\s*|\s*∪\s*")
_MATRIX = re.compile(r"\\begin\s*\{([pbvB]?)matrix\}(.*)\\end\s*\{\1matrix\}", re.DOTALL)
_MEMBER_OF = re.compile(r"^([A-Za-z])\s*∈\s*(?=[(\[⦃{])")


def _read_items(text: str) -> Items | None:
    if "matrix" in text:
        return _read_matrix(text)
    variable = ""
    member = _MEMBER_OF.match(text)
    if member:
        variable, text = member[1], text[member.end() :]
    if text.count("±") == 1 and "," not in text:
        before, _, after = text.partition("±")
        left, equals, start = before.rpartition("=")
        sides = (f"{start}+{after}" if start.strip() else after, f"{start}-{after}")
        return Items(tuple(f"{left}{equals}{side}".strip() for side in sides), "±")
    if not _SEPARATOR.search(text) and text[:1] not in _OPENINGS:
        return None
    opening, inner, closing = _enclosed(text)
    items, separators = _split(inner)
    if not 1 < len(items) + bool(opening) <= MAX_ITEMS or not all(items):
        return None
    if not opening and text.count("=") == 1 and "=" in items[0]:  # x = 1, 2 is one equation with two solutions
        return None
    if "∪" in separators:
        return Items(items, "∪") if not opening else None
    if opening:
        set_like = opening in "⦃{"
        return Items(items, "⦃" if set_like else opening, "⦄" if set_like else closing, variable)
    return Items(items, "", "or" if separators & {"or", "或"} else ",")


def _enclosed(text: str) -> tuple[str, str, str]:
    """(opening, inner, closing) where one pair of brackets encloses all of `text`, of any kinds as in [0, 1); else ("", text, "")."""
    if text[:1] not in _OPENINGS or text[-1:] not in _CLOSINGS or len(text) < 3:
        return "", text, ""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENINGS) - (character in _CLOSINGS)
        if depth == 0 and position < len(text) - 1:
            return "", text, ""
    return text[0], text[1:-1].strip(), text[-1]


def _split(text: str) -> tuple[tuple[str, ...], set[str]]:
    """The items between separators that stand in no bracket, and the separators."""
    items, separators, depth, start = [], set[str](), 0, 0
    position = 0
    while position < len(text):
        character = text[position]
        depth += (character in _OPENINGS) - (character in _CLOSINGS)
        separator = _SEPARATOR.match(text, position) if depth == 0 else None
        if separator and not (
            separator[0] == "," and _THOUSANDS.match(text, position) and _DIGIT_BEFORE.search(text, start, position)
        ):
            items.append(text[start:position].strip())
            separators.update(re.findall(r"and|or|[,;、&和或∪]", separator[0]))
            position = start = separator.end()
        else:
            position += 1
    return (*items, text[start:].strip()), separators


_THOUSANDS = re.compile(r",\d{3}(?!\d)")
_DIGIT_BEFORE = re.compile(r"(?<!\d)[1-9]\d{0,2}(?:,\d{3})*$")


def _read_matrix(text: str) -> Items | None:
    """The entries row by row; round and square brackets are the same matrix, bars are its determinant."""
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\", match[2].strip().removesuffix("\\\\"))]
    if len({len(row) for row in rows}) != 1 or len(rows) * len(rows[0]) > MAX_ITEMS:
        return None
    kind = match[1] if match[1] == "v" else ""
    return Items(tuple(entry.strip() for row in rows for entry in row), f"{kind}matrix {len(rows)}x{len(rows[0])}")


_SIMPLE_INEQUALITY = re.compile(r"([^<>≤≥=]+)([<>≤≥])([^<>≤≥=]+)")
_DOUBLE_INEQUALITY = re.compile(
    r"([^<>≤≥=]+)([<≤])\s*([A-Za-zα-ω])\s*([<≤])([^<>≤≥=]+)|([^<>≤≥=]+)([>≥])\s*([A-Za-zα-ω])\s*([>≥])([^<>≤≥=]+)"
)
_VARIABLE = re.compile(r"[A-Za-zα-ω]")
_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}
_RELATIONS = re.compile("[<>≤≥≠]")


def _read_relation(text: str) -> Value | None:
    text = text.replace("<=", "≤").replace(">=", "≥").replace("==", "=")
    if "=" in text and not _RELATIONS.search(text):
        sides = [side.strip() for side in _at_top_level(text, "=")]
        return Equation(sides[0], sides[-1]) if len(sides) > 1 and all(sides) else None
    double = _DOUBLE_INEQUALITY.fullmatch(text)
    if double:
        low, below, variable, above, high = (
            double.groups()[:5] if double[1] else (double[10], double[9], double[8], double[7], double[6])
        )
        return _interval(variable, low.strip(), below in "<>", high.strip(), above in "<>")
    simple = _SIMPLE_INEQUALITY.fullmatch(text)
    if simple is None:
        return None
    left, relation, right = simple[1].strip(), simple[2], simple[3].strip()
    if not _VARIABLE.fullmatch(left):
        left, relation, right = right, _FLIPPED[relation], left
    if not _VARIABLE.fullmatch(left) or _VARIABLE.fullmatch(right):
        return None
    is_open = relation in "<>"
    return (
        _interval(left, "-∞", True, right, is_open) if relation in "<≤" else _interval(left, right, is_open, "∞", True)
    )


def _at_top_level(text: str, mark: str) -> list[str]:
    """`text` split at every `mark` that stands in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in _OPENINGS) - (character in _CLOSINGS)
        if character == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _interval(variable: str, low: str, low_open: bool, high: str, high_open: bool) -> Items:
    return Items((low, high), "(" if low_open else "[", ")" if high_open else "]", variable)
