"""The rules that compare two answers, cheapest first; the first that can tell decides.

A rule answers True or False where the forms of both answers let it, None where they do not. `compare` names the rule that decided, or says
that only algebra can (`NEEDS_ALGEBRA`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tools.reasoning_data_pipeline.answer_numbers import Quantity, quantities_agree, read_quantity
from tools.reasoning_data_pipeline.answer_scores import relaxed_accepts
from tools.reasoning_data_pipeline.answer_text import normalise, word_key
from tools.reasoning_data_pipeline.answer_units import read_measure
from tools.reasoning_data_pipeline.answer_values import (
    Choice,
    Choices,
    Date,
    Equation,
    Items,
    Ratio,
    Time,
    Value,
    read_value,
)
from tools.reasoning_data_pipeline.expression_values import formulas_agree, proportional
from tools.reasoning_data_pipeline.expressions import CONSTANTS, Formula, UnreadableFormula, read_formula

MAX_RECURSION = 4
MAX_CACHED_CHARS = 200
NEEDS_ALGEBRA = "algebra"
DIFFERENT = "different"


@dataclass(frozen=True)
class Finding:
    """What the rules say: whether the answers agree (None: only algebra can tell) and the rule that decided."""

    agree: bool | None
    rule: str


@dataclass(frozen=True)
class Reading:
    """An answer as the rules see it.

    Attributes:
        text: normalised.
        compact: without the spaces, case and subscript marks that change nothing.
        words: key of plain words, None for what looks like mathematics.
        quantity: the number it spells, if any.
        value: the other kind of thing it is, if any.
    """

    text: str
    compact: str
    words: str | None
    quantity: Quantity | None
    value: Value | None


Rule = Callable[[Reading, Reading, bool, int], bool | None]


def read(answer: str) -> Reading:
    """How the rules see `answer`; short ones are remembered."""
    return _read_cached(answer) if len(answer) <= MAX_CACHED_CHARS else _read(answer)


def _read(answer: str) -> Reading:
    text = normalise(answer)
    quantity = read_quantity(text)
    return Reading(text, _compact(text), word_key(text), quantity, None if quantity else read_value(text))


_read_cached = lru_cache(maxsize=32768)(_read)

_FREE_SPACE = re.compile(r"(?<!\w) | (?!\w)|(?<=[^\W\d]) (?=\d)|(?<=\d) (?=[^\W\d])")
_SCRIPT_BRACES = re.compile(r"([_^])\{(\w+|\d*[-+])\}(?!\w)")
_CHARGE = re.compile(r"\^(?=\d*[-+](?!\w))")
_INFINITY = {"inf", "+inf", "infinity", "+∞", "∞", "positiveinfinity"}


def _compact(text: str) -> str:
    folded = _FREE_SPACE.sub("", text.casefold())
    if "^" in folded or "_" in folded:
        folded = _CHARGE.sub("", _SCRIPT_BRACES.sub(r"\1\2", folded)).replace("_", "")
    return {"⦃⦄": "∅", "{}": "∅", "-inf": "-∞", "-infinity": "-∞"}.get(folded, "∞" if folded in _INFINITY else folded)


def compare(predicted: Reading, gold: Reading, *, relaxed: bool = False, depth: int = 0) -> Finding:
    """Whether two answers agree, by the first rule that can tell.

    Args:
        predicted: the answer to judge.
        gold: the right answer.
        relaxed: numbers may be off by 5 % (charts).
        depth: how many lists and equations enclose the two; beyond `MAX_RECURSION` only their text counts.
    """
    if predicted.text == gold.text:
        return Finding(True, "same text")
    if predicted.text and gold.text and depth <= MAX_RECURSION:
        for name, rule in RULES:
            agree = rule(predicted, gold, relaxed, depth)
            if agree is not None:
                return Finding(agree, name)
        if needs_algebra(predicted.text, gold.text):
            return Finding(None, NEEDS_ALGEBRA)
    return Finding(False, DIFFERENT)


def _agree(predicted: str, gold: str, relaxed: bool, depth: int) -> bool:
    return compare(read(predicted), read(gold), relaxed=relaxed, depth=depth + 1).agree is True


def same_number(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Two numbers: exactly, as roundings, or within the tolerance of charts."""
    if predicted.quantity is None or gold.quantity is None:
        return None
    if relaxed and relaxed_accepts(predicted.quantity, gold.quantity):
        return True
    return quantities_agree(predicted.quantity, gold.quantity)


def same_spelling(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """The same but for spaces, case and subscript marks, or, in plain words, punctuation and articles."""
    if predicted.compact == gold.compact or (predicted.words is not None and predicted.words == gold.words):
        return True
    return None


def same_choice(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Option letters, with their texts where both give one; an option's text also stands for the option."""
    first, second = predicted.value, gold.value
    if isinstance(first, Choice) and isinstance(second, Choice):
        if not first.text or not second.text:
            return first.letter == second.letter
        return first.letter == second.letter and _agree(first.text, second.text, relaxed, depth)
    if isinstance(first, Choices) and isinstance(second, Choices):
        return first.letters == second.letters
    if isinstance(first, Choice) and first.text and not isinstance(second, Choices):
        return _agree(first.text, gold.text, relaxed, depth)
    if isinstance(second, Choice) and second.text and not isinstance(first, Choices):
        return _agree(predicted.text, second.text, relaxed, depth)
    return None


def same_moment(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Dates, times of day and ratios in their several spellings."""
    first, second = predicted.value, gold.value
    if isinstance(first, Date) and isinstance(second, Date):
        if len(first.readings) == len(second.readings):
            return first == second
        return not set(first.readings).isdisjoint(second.readings)
    if isinstance(first, Time) and isinstance(second, Time):
        return _same_time(first, second)
    if isinstance(first, Ratio) and isinstance(second, Ratio):
        return first == second
    return None


def _same_time(first: Time, second: Time) -> bool:
    """15:30 is 3:30 PM; 3:30 without AM or PM may be either, but is not 15:30."""
    if (first.minute, first.second) != (second.minute, second.second):
        return False
    if not first.half and not second.half:
        return first.hour == second.hour
    return not _hours(first).isdisjoint(_hours(second))


def _hours(time: Time) -> set[int]:
    if time.half:
        return {time.hour % 12 + (12 if time.half == "p" else 0)}
    return {time.hour, time.hour + 12} if 1 <= time.hour <= 12 else {time.hour}


_SIMPLE_SIDE = re.compile(r"(?:[^\W\d_]|[∠△ ,'])+(?:_\{?\w+\}?)?(?:\([^\d()]{1,10}\))?")


def same_equation(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Equations by their sides or as lines of proportional terms; x = 3 is also the answer 3."""
    first, second = predicted.value, gold.value
    if isinstance(first, Equation) and isinstance(second, Equation):
        return _same_sides(first, second, relaxed, depth)
    if isinstance(first, Equation) and (solved := _solved(first)) is not None:
        return _agree(solved, gold.text, relaxed, depth)
    if isinstance(second, Equation) and (solved := _solved(second)) is not None:
        return _agree(predicted.text, solved, relaxed, depth)
    return False if isinstance(first, Equation) or isinstance(second, Equation) else None


def _solved(equation: Equation) -> str | None:
    """What the equation says about a quantity: the side opposite to its name."""
    if _SIMPLE_SIDE.fullmatch(equation.left):
        return equation.right
    return equation.left if _SIMPLE_SIDE.fullmatch(equation.right) and read_quantity(equation.left) else None


def _same_sides(first: Equation, second: Equation, relaxed: bool, depth: int) -> bool | None:
    if read(first.left).compact == read(second.left).compact:
        return _agree(first.right, second.right, relaxed, depth)
    terms = [_formula(f"({equation.left})-({equation.right})") for equation in (first, second)]
    if terms[0] is None or terms[1] is None:
        swapped = _agree(first.left, second.right, relaxed, depth) and _agree(first.right, second.left, relaxed, depth)
        return swapped or (
            _agree(first.left, second.left, relaxed, depth) and _agree(first.right, second.right, relaxed, depth)
        )
    return proportional(terms[0], terms[1])


def same_items(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Lists, sets, tuples, intervals, unions and matrices by their items; order counts where brackets make it count."""
    first, second = predicted.value, gold.value
    if isinstance(first, Items) and isinstance(second, Items):
        if len(first.items) != len(second.items) or not _same_brackets(first, second):
            return False
        if first.ordered or second.ordered:
            return all(
                _agree(left, right, relaxed, depth) for left, right in zip(first.items, second.items, strict=True)
            )
        return _same_multiset(first.items, second.items, relaxed, depth)
    for one, other in ((first, gold), (second, predicted)):
        if isinstance(one, Items) and len(one.items) == 1 and other.value is None:
            return _agree(one.items[0], other.text, relaxed, depth)
        if isinstance(one, Items) and other.quantity is not None:
            return False
    return None


def _same_brackets(first: Items, second: Items) -> bool:
    if first.variable and second.variable and first.variable != second.variable:
        return False
    if first.opening and second.opening:
        unordered = not first.ordered and not second.ordered
        return unordered or (first.opening == second.opening and first.closing == second.closing)
    if {first.closing, second.closing} == {",", "or"}:  # 3 or -3 are two solutions, red or blue is a hedge
        return all(read(item).words is None for item in (*first.items, *second.items))
    return True


def _same_multiset(first: tuple[str, ...], second: tuple[str, ...], relaxed: bool, depth: int) -> bool:
    left = list(second)
    for item in first:
        match = next((other for other in left if _agree(item, other, relaxed, depth)), None)
        if match is None:
            return False
        left.remove(match)
    return True


_YES = frozenset({"yes", "yeah", "yep", "是", "是的", "对", "对的"})
_NO = frozenset({"no", "nope", "否", "不", "不是", "不对"})
_FIRST_WORD = re.compile(r"(yes|no|是的|不是|是|否)(?=[,.;:!。]|$)", re.IGNORECASE)


def same_polarity(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Yes or no, also as the first word of a sentence."""
    polarities = (_polarity(predicted.text), _polarity(gold.text))
    if polarities == (None, None):
        return None
    openings = (_FIRST_WORD.match(predicted.text), _FIRST_WORD.match(gold.text))
    first, second = (
        _polarity(opening[1]) if opening else polarity for opening, polarity in zip(openings, polarities, strict=True)
    )
    return None if first is None or second is None else first is second


def _polarity(word: str) -> bool | None:
    folded = word.casefold()
    return True if folded in _YES else False if folded in _NO else None


_MATHEMATICAL = re.compile(r"[\d+*/^\\π√!|°]")
_WORDS = re.compile(r"(?<![A-Za-z\d\\{])(?!arc|sin|cos|tan|cot|sec|csc|log|exp|abs)[A-Za-z]{3,}|[A-Za-z]{9}")


def same_formula(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """Formulas by their values at sample points."""
    if predicted.value is not None and not isinstance(predicted.value, Choice | Choices):
        return None
    first, second = _formula(predicted.text), _formula(gold.text)
    if first is None or second is None or not (_MATHEMATICAL.search(predicted.text) or _MATHEMATICAL.search(gold.text)):
        return None
    agree = formulas_agree(first, second)
    if not agree:
        for plain in (_without_degrees, _without_units):
            pair = plain(predicted.text, gold.text)
            if pair is not None:
                return formulas_agree(*pair)
    return agree


def _without_degrees(predicted: str, gold: str) -> tuple[Formula, Formula] | None:
    """The formulas of an angle in degrees and of a plain number of degrees: 60° + 30° and 90."""
    if ("°" in predicted) == ("°" in gold) or "π" in predicted + gold:
        return None
    return _both(predicted.replace("°", ""), gold.replace("°", ""))


_FORMULA_WITH_UNIT = re.compile(
    r"(.*[\d)}π])( ?(?:(?:square|sq\.?|cubic) )?[A-Za-zμΩ°]{2}[A-Za-z/*^{}\d -]*| [A-Za-z](?:\^\{?\d\}?)?)"
)


def _without_units(predicted: str, gold: str) -> tuple[Formula, Formula] | None:
    """The formulas without their units, where at most one has a unit or both have the same: 25π cm^2 and 25π."""
    formulas, units = [], []
    for text in (predicted, gold):
        match = _FORMULA_WITH_UNIT.fullmatch(text)
        unit = read_measure(match[2].strip()) if match else None
        formulas.append(match[1] if match and unit else text)
        units.append(unit)
    if units == [None, None] or (units[0] and units[1] and units[0] != units[1]):
        return None
    return _both(*formulas)


def _both(predicted: str, gold: str) -> tuple[Formula, Formula] | None:
    first, second = _formula(predicted), _formula(gold)
    return None if first is None or second is None else (first, second)


@lru_cache(maxsize=4096)
def _formula(text: str) -> Formula | None:
    if _WORDS.search(text):
        return None
    try:
        return read_formula(text)
    except UnreadableFormula:
        return None


_SPAN = re.compile(r"\$([^$]+)\$")
_SAYS = re.compile(r".*(?:\b(?:is|are|was|were|equals)\s|[是为])\s*")
_NEGATION = re.compile(r"\b(?:not|no|isn't|cannot|or)\b|不", re.IGNORECASE)


def same_in_sentence(predicted: Reading, gold: Reading, relaxed: bool, depth: int) -> bool | None:
    """What a sentence says: its one formula between dollar signs (`period $\\pi$`), or the number after its verb (The area is 25)."""
    if _NEGATION.search(predicted.text):
        return None
    spans = _SPAN.findall(predicted.text)
    if len(spans) == 1 and "$" not in gold.text:
        return _agree(spans[0], gold.text, relaxed, depth) or None
    said = _SAYS.match(predicted.text)
    if said and gold.quantity and read(predicted.text[said.end() :]).quantity:
        return _agree(predicted.text[said.end() :], gold.text, relaxed, depth)
    return None


RULES: tuple[tuple[str, Rule], ...] = (
    ("number", same_number),
    ("spelling", same_spelling),
    ("choice", same_choice),
    ("date, time or ratio", same_moment),
    ("equation", same_equation),
    ("yes or no", same_polarity),
    ("items", same_items),
    ("formula", same_formula),
    ("sentence", same_in_sentence),
)

_CALCULUS = re.compile(
    r"\\(?:int|iint|oint|sum|prod|lim|partial|nabla|det|gcd|max|min|mod|bmod)(?![A-Za-z])|\\frac\s*\{\s*d\b"
)
_RELATION = re.compile("[<>≤≥∪∩]")
_ALGEBRAIC = re.compile(r"[\d\\=+*/^<>≤≥∪∩∞π]")
MAX_ALGEBRA_CHARS = 300


def needs_algebra(predicted: str, gold: str) -> bool:
    """Whether a computer algebra system could find two texts equal that no rule can: calculus or relations against mathematics."""
    for text in (predicted, gold):
        if (
            len(text) > MAX_ALGEBRA_CHARS
            or text.count("{") != text.count("}")
            or _WORDS.search(re.sub(r"\\[A-Za-z]+", " ", text))
        ):
            return False
        if not _ALGEBRAIC.search(text) and text not in CONSTANTS and len(text) > 1:
            return False
    if _RELATION.search(predicted) and _RELATION.search(gold):
        return True
    return bool(_CALCULUS.search(predicted) or _CALCULUS.search(gold))
