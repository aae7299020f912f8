"""Answers that state something: equations, inequalities as intervals, conditions of a set, chains such as a < b ≤ c."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.reasoning_data_pipeline.answers.items import Equation, Items, at_top_level


@dataclass(frozen=True)
class Chain:
    """Terms with a relation between each two, written so that they rise: 3 > b is b < 3.

    Attributes:
        terms: at least two texts.
        relations: one of < ≤ = ≠ between each two.
    """

    terms: tuple[str, ...]
    relations: tuple[str, ...]


_SIDE = r"([^<>≤≥=≠≈]+)"
_SIMPLE_INEQUALITY = re.compile(rf"{_SIDE}([<>≤≥≠]){_SIDE}")
_RISING = re.compile(rf"{_SIDE}([<≤])\s*([A-Za-zα-ω])\s*([<≤]){_SIDE}")
_FALLING = re.compile(rf"{_SIDE}([>≥])\s*([A-Za-zα-ω])\s*([>≥]){_SIDE}")
_VARIABLE = re.compile(r"[A-Za-zα-ω]")
_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠"}
_RELATIONS = re.compile("[<>≤≥≠]")
_RELATION = re.compile("([<>≤≥=≠])")
_SET_BUILDER = re.compile(r"[{⦃]\s*([A-Za-z])\s*(?:∈\s*(?:R|\(-∞,\s*∞\))\s*)?[|:]\s*(.+?)\s*[}⦄]")
_ALL_REALS = re.compile(r"\s*(?:,\s*)?(?:[A-Za-z]\s*)?∈\s*(?:R|\(-∞,\s*∞\))$")
_MAX_TERMS = 12


def read_relation(text: str) -> Equation | Items | Chain | None:
    """An equation, the interval that a condition on one variable describes, or a chain; None for anything else."""
    text = text.replace("<=", "≤").replace(">=", "≥").replace("==", "=")
    if "≈" in text:
        sides = [side.strip() for side in re.split("[=≈]", text)]
        return Equation(sides[0], sides[-1], tuple(sides[1:-1]), approximate=True) if all(sides) else None
    if _RELATIONS.search(text):
        return _read_double_inequality(text) or _read_inequality(text) or _read_chain(text)
    sides = [side.strip() for side in at_top_level(text, "=")] if "=" in text else []
    return Equation(sides[0], sides[-1], tuple(sides[1:-1])) if len(sides) > 1 and all(sides) else None


def read_condition(text: str) -> Items | None:
    """The interval or union of a set given by a condition, {x | x > 3}, or of two conditions, x > 1 and x < 3."""
    builder = _SET_BUILDER.fullmatch(text) if text[:1] in "{⦃" else None
    if builder is None:
        return None
    condition = _ALL_REALS.sub("", builder[2])
    parts = re.split(r"\s*(?:\bor\b|或|∨)\s*", condition)
    found = [relation for part in parts if isinstance(relation := read_relation(part), Items)]
    if len(found) < len(parts) or any(relation.variable != builder[1] for relation in found):
        return None
    return found[0] if len(found) == 1 else Items(tuple(parts), "", "or")


def intersection(items: Items) -> Items | None:
    """The interval of x > 1 and x < 3; None where the items are no two such conditions."""
    if len(items.items) != 2 or items.opening or items.closing != ",":
        return None
    halves = [read_relation(item) for item in items.items]
    if not all(isinstance(half, Items) and half.opening in "([" and half.variable for half in halves):
        return None
    above = [half for half in halves if isinstance(half, Items) and half.items[1] == "∞"]
    below = [half for half in halves if isinstance(half, Items) and half.items[0] == "-∞"]
    if len(above) != 1 or len(below) != 1 or above[0].variable != below[0].variable:
        return None
    return Items((above[0].items[0], below[0].items[1]), above[0].opening, below[0].closing, above[0].variable)


def _read_double_inequality(text: str) -> Items | None:
    """1 < x ≤ 2 or 2 ≥ x > 1."""
    match = _RISING.fullmatch(text)
    if match:
        return _interval(match[3], match[1], match[2], match[4], match[5])
    match = _FALLING.fullmatch(text)
    return _interval(match[3], match[5], match[4], match[2], match[1]) if match else None


def _read_inequality(text: str) -> Items | None:
    """x < 2 or 2 > x; x ≠ 2 is all but 2."""
    match = _SIMPLE_INEQUALITY.fullmatch(text)
    if match is None:
        return None
    left, relation, right = match[1].strip(), match[2], match[3].strip()
    if not _VARIABLE.fullmatch(left):
        left, relation, right = right, _FLIPPED[relation], left
    if not _VARIABLE.fullmatch(left) or _VARIABLE.fullmatch(right) or not right:
        return None
    if relation == "≠":
        return Items((f"(-∞,{right})", f"({right},∞)"), "∪", ",", left)
    return (
        _interval(left, "-∞", "<", relation, right) if relation in "<≤" else _interval(left, right, relation, "<", "∞")
    )


def _interval(variable: str, low: str, above: str, below: str, high: str) -> Items:
    """Values between `low` and `high`; `above` and `below` are the relations of `variable` to them, strict or not."""
    return Items((low.strip(), high.strip()), "(" if above in "<>" else "[", ")" if below in "<>" else "]", variable)


def _read_chain(text: str) -> Chain | None:
    """a > b = c as c = b < a; None where relations of both directions meet."""
    parts = _RELATION.split(text)
    terms, relations = [part.strip() for part in parts[::2]], parts[1::2]
    if not all(terms) or len(terms) > _MAX_TERMS or (set(relations) & set("<≤") and set(relations) & set(">≥")):
        return None
    if set(relations) & set(">≥"):
        return Chain(tuple(reversed(terms)), tuple(_FLIPPED[relation] for relation in reversed(relations)))
    return Chain(tuple(terms), tuple(relations))
