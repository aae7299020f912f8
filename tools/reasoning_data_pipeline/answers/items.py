"""Answers with parts: lists, sets, tuples, points, intervals, unions, labelled parts and matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ITEMS = 64


@dataclass(frozen=True)
class Equation:
    """The two sides of one equality sign.

    Attributes:
        left, right: its sides; of a chain a = b = c the first and the last.
        middle: what stands between them in a chain.
        approximate: written with ≈.
    """

    left: str
    right: str
    middle: tuple[str, ...] = ()
    approximate: bool = False


@dataclass(frozen=True)
class Items:
    """Several answers together.

    Attributes:
        items: their texts.
        opening: "(", "[", "⦃", "∪" of a union, "±", "matrix 2x2", "labels", "respectively", or "" for a list.
        closing: the closing bracket, or the word between the items of a list: "," or "or".
        variable: the variable of an interval that was written as an inequality, the name of a point, or "".
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
_SEPARATOR_MARK = re.compile("[,;、和或&∪]|and|or")
_SEPARATOR_STARTS = frozenset(" ,;、和或∪")
_MATRIX = re.compile(r"\\begin\s*\{([pbvB]|small)?matrix\}(.*)\\end\s*\{(?:[pbvB]|small)?matrix\}", re.DOTALL)
_MEMBER_OF = re.compile(r"^([A-Za-z])\s*∈\s*(?=[(\[⦃{])")
_POINT = re.compile(
    r"(?:(?:the )?(?:points?|vertex|cent(?:er|re)|coordinates?|ordered pair|点|坐标)(?: (?:is|are|at))?[是为:]?\s*)?"
    r"([A-Z]'?(?:_?\d)?)?\s?(?=\([^()]*,)",
)
_LABEL = re.compile(
    r"(?:^|(?<=[\s;,.。])|(?<=[)\d]))(?:[Pp]art )?(?:\(?([A-Ha-h1-9]|i{1,3}|iv|v)\)\s*[:.]?|([A-H])\s*:)\s*"
)
_SERIES = ("abcdefgh", "123456789", ("i", "ii", "iii", "iv", "v"))
_JOINED = re.compile(r"and|or|[-+*/&]")
_RESPECTIVE_WORD = re.compile("respectively|order|分别|依次")
_RESPECTIVELY = re.compile(r",?\s*(?:\brespectively\b|\bin (?:that|this) order\b|分别[为是]?|依次[为是]?):?\s*")


def read_items(text: str) -> Items | None:
    """The list, set, tuple, point, interval, union or matrix that all of `text`, normalised, spells."""
    if "matrix}" in text:
        return _read_matrix(text)
    if text.count("±") == 1 and "," not in text:
        return _read_both_signs(text)
    member = _MEMBER_OF.match(text)
    text = text[member.end() :] if member else text
    named = member or _POINT.match(text)
    inside = text[named.end() :] if named and not member else text
    if inside[:1] in _OPENINGS:
        opening, inner, closing = _enclosed(inside)
        if opening:
            return _read_bracketed(opening, inner, closing, (named[1] or "") if named else "")
    if _RESPECTIVE_WORD.search(text) and _RESPECTIVELY.search(text):
        listed = _read_list(_RESPECTIVELY.sub("", text).strip())
        return Items(listed.items, "respectively") if listed else None
    return _read_list(text) if _SEPARATOR_MARK.search(text) and _SEPARATOR.search(text) else None


def read_labelled(text: str) -> Items | None:
    """(a) 30 (b) 20 or A: 8; B: 3: the parts in the order of their labels, which start at the first."""
    first = _LABEL.match(text)
    if first is None:
        return None
    labels = list(_LABEL.finditer(text))
    names = [(label[1] or label[2]).lower() for label in labels]
    if len(labels) < 2 or not any(names == list(series[: len(names)]) for series in _SERIES):
        return None
    ends = [label.start() for label in labels[1:]] + [len(text)]
    parts = [text[label.end() : end].strip(" ,;.。") for label, end in zip(labels, ends, strict=True)]
    return Items(tuple(parts), "labels") if all(parts) and not any(map(_JOINED.fullmatch, parts)) else None


def _read_both_signs(text: str) -> Items:
    """x = 2 ± 3 as x = 2 + 3 and x = 2 - 3."""
    before, _, after = text.partition("±")
    left, equals, start = before.rpartition("=")
    sides = (f"{start}+{after}" if start.strip() else after, f"{start}-{after}")
    return Items(tuple(f"{left}{equals}{side}".strip() for side in sides), "±")


def _read_bracketed(opening: str, inner: str, closing: str, variable: str) -> Items | None:
    items, separators = _split(inner, thousands=False)
    if "∪" in separators or not _are_items(items):
        return None
    if opening == "[" and all(item.startswith("[") and item.endswith("]") for item in items):
        return _read_rows([_split(item[1:-1], thousands=False)[0] for item in items], "")
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


def _split(text: str, *, thousands: bool = True) -> tuple[tuple[str, ...], set[str]]:
    """The items between separators that stand in no bracket, and the separators.

    `thousands`: a comma between three digits may belong to a number; in brackets it separates, as in (3,250).
    """
    items, separators, depth, start = [], set[str](), 0, 0
    position = 0
    while position < len(text):
        character = text[position]
        depth += (character in _OPENINGS) - (character in _CLOSINGS)
        separator = _SEPARATOR.match(text, position) if depth == 0 and character in _SEPARATOR_STARTS else None
        if separator and not (
            thousands
            and separator[0] == ","
            and _THOUSANDS.match(text, position)
            and _DIGIT_BEFORE.search(text, start, position)
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
    return _read_rows([row.split("&") for row in re.split(r"\\\\", match[2].strip().removesuffix("\\\\"))], match[1])


def _read_rows(rows: Sequence[Sequence[str]], kind: str | None) -> Items | None:
    if len({len(row) for row in rows}) != 1 or len(rows) * len(rows[0]) > MAX_ITEMS:
        return None
    kind = kind if kind == "v" else ""
    return Items(tuple(entry.strip() for row in rows for entry in row), f"{kind}matrix {len(rows)}x{len(rows[0])}")


def at_top_level(text: str, mark: str) -> list[str]:
    """`text` split at every `mark` that stands in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in _OPENINGS) - (character in _CLOSINGS)
        if character == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
