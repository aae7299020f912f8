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
    if text.count("±") == 1 and "," not in text:
        return _read_both_signs(text)
    member = _MEMBER_OF.match(text)
    inside = text[member.end() :] if member else text
    if inside[:1] in _OPENINGS:
        opening, inner, closing = _enclosed(inside)
        if opening:
            return _read_bracketed(opening, inner, closing, member[1] if member else "")
    return _read_list(inside) if _SEPARATOR.search(inside) else None


def _read_both_signs(text: str) -> Items:
    """x = 2 ± 3 as x = 2 + 3 and x = 2 - 3."""
    before, _, after = text.partition("±")
    left, equals, start = before.rpartition("=")
    sides = (f"{start}+{after}" if start.strip() else after, f"{start}-{after}")
    return Items(tuple(f"{left}{equals}{side}".strip() for side in sides), "±")


def _read_bracketed(opening: str, inner: str, closing: str, variable: str) -> Items | None:
    items, separators = _split(inner)
    if "∪" in separators or not _are_items(items):
        return None
    if opening in "⦃{":
        opening, closing = "⦃", "⦄"
    return Items(items, opening, closing, variable)


def _read_list(text: str) -> Items | None:
    items, separators = _split(text)
    if len(items) < 2 or not _are_items(items):
        return None
    if text.count("=") == 1 and "=" in items[0]:  # x = 1, 2 is one equation with two solutions
        return None
    if "∪" in separators:
        return Items(items, "∪")
    return Items(items, "", "or" if separators & {"or", "或"} else ",")


def _are_items(items: tuple[str, ...]) -> bool:
    return len(items) <= MAX_ITEMS and all(items)


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


_SIDE = r"([^<>≤≥=]+)"
_SIMPLE_INEQUALITY = re.compile(rf"{_SIDE}([<>≤≥]){_SIDE}")
_RISING = re.compile(rf"{_SIDE}([<≤])\s*([A-Za-zα-ω])\s*([<≤]){_SIDE}")
_FALLING = re.compile(rf"{_SIDE}([>≥])\s*([A-Za-zα-ω])\s*([>≥]){_SIDE}")
_VARIABLE = re.compile(r"[A-Za-zα-ω]")
_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}
_RELATIONS = re.compile("[<>≤≥≠]")


def read_relation(text: str) -> Equation | Items | None:
    """An equation, or the interval that an inequality in one variable describes; None for anything else."""
    text = text.replace("<=", "≤").replace(">=", "≥").replace("==", "=")
    if _RELATIONS.search(text):
        return _read_double_inequality(text) or _read_inequality(text)
    sides = [side.strip() for side in _at_top_level(text, "=")]
    return Equation(sides[0], sides[-1]) if len(sides) > 1 and all(sides) else None


def _read_double_inequality(text: str) -> Items | None:
    """1 < x ≤ 2 or 2 ≥ x > 1."""
    match = _RISING.fullmatch(text)
    if match:
        return _interval(match[3], match[1], match[2], match[4], match[5])
    match = _FALLING.fullmatch(text)
    return _interval(match[3], match[5], match[4], match[2], match[1]) if match else None


def _read_inequality(text: str) -> Items | None:
    """x < 2 or 2 > x."""
    match = _SIMPLE_INEQUALITY.fullmatch(text)
    if match is None:
        return None
    left, relation, right = match[1].strip(), match[2], match[3].strip()
    if not _VARIABLE.fullmatch(left):
        left, relation, right = right, _FLIPPED[relation], left
    if not _VARIABLE.fullmatch(left) or _VARIABLE.fullmatch(right):
        return None
    return (
        _interval(left, "-∞", "<", relation, right) if relation in "<≤" else _interval(left, right, relation, "<", "∞")
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


def _interval(variable: str, low: str, above: str, below: str, high: str) -> Items:
    """Values between `low` and `high`; `above` and `below` are the relations of `variable` to them, strict or not."""
    return Items((low.strip(), high.strip()), "(" if above in "<>" else "[", ")" if below in "<>" else "]", variable)
