"""Numbers side by side that are no sum and no product: ranges, scores, seasons, telephone numbers and dimensions.

`10-20` is a range and `2 x 10` a size; as a difference or a product they are read only against a single number.
"""

from __future__ import annotations

import functools
import operator
import re
from dataclasses import dataclass, replace

from tools.reasoning_data_pipeline.answers.quantities import Quantity, quantities_agree, read_quantity


@dataclass(frozen=True)
class Span:
    """Two or more numbers in an order.

    Attributes:
        kind: "range" or "dimensions".
        terms: the numbers with their units, at least two.
        worth: what it is as a difference or a product; None where only the span makes sense.
    """

    kind: str
    terms: tuple[Quantity, ...]
    worth: Quantity | None = None


MAX_SPAN_CHARS = 80
_TERM = r"(?:US)?[$€£¥₹]?\d[\d,]*(?:\.\d+)?%?"
_UNIT = r"(?:\s*[^\W\d_°][^\d+*^=-]{0,30}|\s*°[CF]?)?"
_HYPHENED = re.compile(rf"{_TERM}{_UNIT}(?:\s*-\s*{_TERM}{_UNIT})+")
_FROM_TO = re.compile(
    rf"(?:(?:between|from|在|从|介于)\s*)?(-?\s*{_TERM}{_UNIT}?)\s*(?:-|~|\bto\b|\band\b|\bthrough\b|\buntil\b|至|到|和)\s*"
    rf"(-?\s*{_TERM}{_UNIT})",
    re.IGNORECASE,
)
_START = re.compile(r"[-\dUu$€£¥₹BbFf在从介]")
_BETWEEN = re.compile(r"[\w%°.]\s?[-~*xX至到和乘]\s?[-\d$€£¥.U]|\b(?:to|and|by|through|until)\b", re.IGNORECASE)
_OPENED = re.compile("between|from|在|从|介于", re.IGNORECASE)
_SIZES = re.compile(rf"{_TERM}{_UNIT}(?:\s*(?:\*|[xX]|\bby\b|乘)\s*{_TERM}{_UNIT})+")
_BETWEEN_SIZES = re.compile(r"(?<=[\d\s\w%])\s*(?:\*|(?<![A-Za-z])[xX](?![A-Za-z])|\bby\b|乘)\s*(?=[\d$€£¥U])")


def read_span(text: str) -> Span | None:
    """The range or the dimensions that all of `text`, normalised, spells."""
    if len(text) > MAX_SPAN_CHARS or not (_START.match(text) and _BETWEEN.search(text)):
        return None
    text = text.removesuffix("之间")
    if _HYPHENED.fullmatch(text):
        return _span("range", re.split(r"(?<=[\w%°])\s*-\s*(?=[\d$€£¥₹U])", text), "-")
    if _SIZES.fullmatch(text):
        return _span("dimensions", _BETWEEN_SIZES.split(text), "*" if "*" in text else "")
    words = _FROM_TO.fullmatch(text)
    if words is None or ("and" in text.lower() or "和" in text) and not _OPENED.match(text):
        return None
    return _span("range", list(words.groups()), "")


def _span(kind: str, parts: list[str], mark: str) -> Span | None:
    """The terms read as quantities; a unit that only the last one gives is that of all."""
    terms = [read_quantity(part.strip()) for part in parts]
    last = terms[-1]
    if last is None or any(term is None or (term.unit.powers and not last.unit.powers) for term in terms):
        return None
    shared = [_with_unit_of(term, last) for term in terms if term is not None]
    if kind == "dimensions" and len({term.unit.powers for term in shared}) > 1:
        return None
    is_bare = not any(term.unit.powers or term.percent for term in shared)
    return Span(kind, tuple(shared), _worth(shared, mark) if mark and is_bare else None)


def _with_unit_of(term: Quantity, last: Quantity) -> Quantity:
    if term.unit.powers or term.percent:
        return term
    return replace(term, unit=last.unit, percent=last.percent)


def _worth(terms: list[Quantity], mark: str) -> Quantity:
    apply = {"-": operator.sub, "*": operator.mul}[mark]
    decimals = (sum if mark == "*" else max)(term.decimals for term in terms)
    return Quantity(
        functools.reduce(apply, (term.value for term in terms)), decimals, all(term.exact for term in terms)
    )


def spans_agree(first: Span, second: Span) -> bool:
    """Whether two spans name the same numbers in the same order."""
    if first.kind != second.kind or len(first.terms) != len(second.terms):
        return False
    return all(quantities_agree(one, two) for one, two in zip(first.terms, second.terms, strict=True))
