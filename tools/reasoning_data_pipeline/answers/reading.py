"""An answer as the comparison rules see it: its text in one spelling, and what kind of thing it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tools.reasoning_data_pipeline.answers.quantities import Quantity, read_quantity
from tools.reasoning_data_pipeline.answers.symbols import is_based
from tools.reasoning_data_pipeline.answers.text import normalise, word_key
from tools.reasoning_data_pipeline.answers.values import Value, read_value

MAX_CACHED_CHARS = 200


@dataclass(frozen=True)
class Reading:
    """An answer as the rules see it.

    Attributes:
        text: normalised.
        compact: without the spaces and subscript marks that change nothing.
        words: key of plain words, None for what looks like mathematics.
        quantity: the number it spells, if any.
        value: the other kind of thing it is, if any.
    """

    text: str
    compact: str
    words: str | None
    quantity: Quantity | None
    value: Value | None


def read(answer: str) -> Reading:
    """How the rules see `answer`; short ones are remembered."""
    return _read_cached(answer) if len(answer) <= MAX_CACHED_CHARS else _read(answer)


def _read(answer: str) -> Reading:
    text = normalise(answer)
    quantity = read_quantity(text)
    return Reading(text, _compact(text), word_key(text), quantity, None if quantity else read_value(text))


_read_cached = lru_cache(maxsize=4096)(_read)

_FREE_SPACE = re.compile(r" (?:(?<!\w )|(?!\w)|(?<=[^\W\d] )(?=\d)|(?<=\d )(?=[^\W\d]))")
_SCRIPT_BRACES = re.compile(r"([_^])\{(\w+|\d*[-+])\}(?!\w)")
_CHARGE = re.compile(r"\^(?=\d*[-+](?!\w))")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-zα-ωΑ-Ω)])_")
_BASE = re.compile(r"^\((\w+)\)(?=_)")
_NAMED = {
    **dict.fromkeys(("inf", "+inf", "infinity", "+infinity", "+∞", "positive infinity", "oo", "+oo", "正无穷"), "∞"),
    **dict.fromkeys(("-inf", "-infinity", "negative infinity", "-oo", "负无穷"), "-∞"),
    **dict.fromkeys(("⦃⦄", "{}", "empty set", "no solution", "no solutions", "no real solution", "空集", "无解"), "∅"),
    **dict.fromkeys(("all real numbers", "all reals", "real numbers", "全体实数"), "(-∞,∞)"),
    "3d": "3D", "2d": "2D", "正确": "对", "√": "对", "错误": "错",
}  # fmt: skip


def _compact(text: str) -> str:
    compact = _FREE_SPACE.sub("", text)
    if compact[:1] == "0" and is_based(compact):
        return compact.lower()
    if "^" in compact or "_" in compact:
        compact = _BASE.sub(r"\1", compact)
        compact = _SUBSCRIPT.sub("", _CHARGE.sub("", _SCRIPT_BRACES.sub(r"\1\2", compact)))
    return _NAMED.get(compact.casefold(), compact)
