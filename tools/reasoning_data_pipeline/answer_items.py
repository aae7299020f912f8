"""Answers with parts: equations, inequalities, lists, sets, tuples, intervals, unions and matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ITEMS = 64


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
        """Whether the order of the items counts: in tuples, intervals and matrices; not in sets, unions and lists."""
        return self.opening not in ("", "⦃", "∪", "±")


_OPENINGS = {"(": ")", "[": "]", "{": "}", "⦃": "⦄"}
_CLOSINGS = frozenset(_OPENINGS.values())
_SEPARATOR = re.compile(r"\s*[,;、]\s*(?:(?:and|or)\s+)?|\s+(?:and|or|&)\s+|\s*[和或]\s*|\s*∪\s*")
_MATRIX = re.compile(r"\\begin\s*\{([pbvB]?)matrix\}(.*)\\end\s*\{\1matrix\}", re.DOTALL)
_MEMBER_OF = re.compile(r"^([A-Za-z])\s*∈\s*(?=[(\[⦃{])")


def read_items(text: str) -> Items | None:
    """The list, set, tuple, interval, union or matrix that all of `text`, normalised, spells."""
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
    """(opening, inner, closing) where one pair of brackets, perhaps of two kinds, encloses all; else ("", text, "")."""
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


def read_relation(text: str) -> Equation | Items | None:
    """An equation, or the interval that an inequality in one variable describes; None for anything else."""
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
