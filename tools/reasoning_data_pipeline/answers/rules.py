"""The rules that compare two answers, cheapest first; the first that can tell decides.

A rule answers True or False where the forms of both answers let it, None where they do not. `compare` names the rule
that decided, or says that only algebra can (`NEEDS_ALGEBRA`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tools.reasoning_data_pipeline.answers.formulas import equal_formulas, needs_algebra, same_equation_terms
from tools.reasoning_data_pipeline.answers.quantities import quantities_agree, read_quantity
from tools.reasoning_data_pipeline.answers.reading import Reading, read
from tools.reasoning_data_pipeline.answers.scores import relaxed_accepts
from tools.reasoning_data_pipeline.answers.values import Choice, Choices, Date, Equation, Items, Ratio, Time

MAX_RECURSION = 4
NEEDS_ALGEBRA = "algebra"
DIFFERENT = "different"


@dataclass(frozen=True)
class Finding:
    """What the rules say: whether the answers agree (None: only algebra can tell) and the rule that decided."""

    agree: bool | None
    rule: str


@dataclass(frozen=True)
class Scope:
    """Where a comparison stands.

    Attributes:
        relaxed: numbers may be off by 5 % (charts).
        depth: how many lists and equations enclose the two; beyond `MAX_RECURSION` only their text counts.
    """

    relaxed: bool = False
    depth: int = 0

    def inner(self) -> Scope:
        """The scope of the parts of what is compared here."""
        return Scope(self.relaxed, self.depth + 1)


Rule = Callable[[Reading, Reading, Scope], bool | None]


def compare(predicted: Reading, gold: Reading, scope: Scope = Scope()) -> Finding:
    """Whether two answers agree, by the first rule that can tell."""
    if predicted.text == gold.text:
        return Finding(True, "same text")
    if predicted.text and gold.text and scope.depth <= MAX_RECURSION:
        for name, rule in RULES:
            agree = rule(predicted, gold, scope)
            if agree is not None:
                return Finding(agree, name)
        if needs_algebra(predicted.text, gold.text):
            return Finding(None, NEEDS_ALGEBRA)
    return Finding(False, DIFFERENT)


def _agree(predicted: str, gold: str, scope: Scope) -> bool:
    return compare(read(predicted), read(gold), scope.inner()).agree is True


def same_number(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Two numbers: exactly, as roundings, or within the tolerance of charts."""
    if predicted.quantity is None or gold.quantity is None:
        return None
    if scope.relaxed and relaxed_accepts(predicted.quantity, gold.quantity):
        return True
    return quantities_agree(predicted.quantity, gold.quantity)


def same_spelling(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """The same but for spaces, case and subscript marks, or, in plain words, punctuation and articles."""
    if predicted.compact == gold.compact or (predicted.words is not None and predicted.words == gold.words):
        return True
    return None


def same_choice(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Option letters, with their texts where both give one; an option's text also stands for the option."""
    first, second = predicted.value, gold.value
    if isinstance(first, Choice) and isinstance(second, Choice):
        texts = first.text and second.text
        return first.letter == second.letter and (not texts or _agree(first.text, second.text, scope))
    if isinstance(first, Choices) or isinstance(second, Choices):
        return first == second if type(first) is type(second) else None
    if isinstance(first, Choice) and first.text:
        return _agree(first.text, gold.text, scope)
    if isinstance(second, Choice) and second.text:
        return _agree(predicted.text, second.text, scope)
    return None


def same_moment(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Dates, times of day and ratios in their several spellings."""
    first, second = predicted.value, gold.value
    if isinstance(first, Date) and isinstance(second, Date):
        if len(first.readings) == len(second.readings):
            return first == second
        return not set(first.readings).isdisjoint(second.readings)
    if isinstance(first, Time) and isinstance(second, Time):
        return _same_time(first, second)
    return first == second if isinstance(first, Ratio) and isinstance(second, Ratio) else None


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


_SIMPLE_SIDE = re.compile(r"(?:[^\W\d_]|∠\d|[∠△ ,'])+(?:_\{?\w+\}?)?(?:\([^\d()]{1,10}\))?")


def same_equation(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Equations by their sides or as lines of proportional terms; x = 3 is also the answer 3."""
    first, second = predicted.value, gold.value
    if isinstance(first, Equation) and isinstance(second, Equation):
        return _same_sides(first, second, scope)
    if isinstance(first, Equation) and (solved := _solved(first)) is not None:
        return _agree(solved, gold.text, scope)
    if isinstance(second, Equation) and (solved := _solved(second)) is not None:
        return _agree(predicted.text, solved, scope)
    return False if isinstance(first, Equation) or isinstance(second, Equation) else None


def _solved(equation: Equation) -> str | None:
    """What the equation says about a quantity: the side opposite to its name."""
    if _SIMPLE_SIDE.fullmatch(equation.left):
        return equation.right
    return equation.left if _SIMPLE_SIDE.fullmatch(equation.right) and read_quantity(equation.left) else None


def _same_sides(first: Equation, second: Equation, scope: Scope) -> bool | None:
    if read(first.left).compact == read(second.left).compact and _agree(first.right, second.right, scope):
        return True
    agree = same_equation_terms((first.left, first.right), (second.left, second.right))
    if agree is not None:
        return agree
    return any(
        _agree(first.left, left, scope) and _agree(first.right, right, scope)
        for left, right in ((second.left, second.right), (second.right, second.left))
    )


def same_items(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Lists, sets, tuples, intervals, unions and matrices by their items; order counts where brackets make it count."""
    first, second = predicted.value, gold.value
    if isinstance(first, Items) and isinstance(second, Items):
        if len(first.items) != len(second.items) or not _same_brackets(first, second):
            return False
        same = _same_in_order if first.ordered or second.ordered else _same_multiset
        return same(first.items, second.items, scope)
    if isinstance(first, Items):
        return _same_alone(first, gold, scope)
    return _same_alone(second, predicted, scope) if isinstance(second, Items) else None


def _same_alone(items: Items, other: Reading, scope: Scope) -> bool | None:
    """Items against one answer: {5} is 5, and no number is several."""
    if len(items.items) == 1 and other.value is None:
        return _agree(items.items[0], other.text, scope)
    return None if other.quantity is None else False


def _same_in_order(first: tuple[str, ...], second: tuple[str, ...], scope: Scope) -> bool:
    return all(_agree(left, right, scope) for left, right in zip(first, second, strict=True))


def _same_brackets(first: Items, second: Items) -> bool:
    if first.variable and second.variable and first.variable != second.variable:
        return False
    if first.opening and second.opening:
        unordered = not first.ordered and not second.ordered
        return unordered or (first.opening, first.closing) == (second.opening, second.closing)
    if {first.closing, second.closing} == {",", "or"}:  # 3 or -3 are two solutions, red or blue is a hedge
        return all(read(item).words is None for item in first.items + second.items)
    return True


def _same_multiset(first: tuple[str, ...], second: tuple[str, ...], scope: Scope) -> bool:
    left = list(second)
    for item in first:
        match = next((other for other in left if _agree(item, other, scope)), None)
        if match is None:
            return False
        left.remove(match)
    return True


_YES = frozenset({"yes", "yeah", "yep", "是", "是的", "对", "对的"})
_NO = frozenset({"no", "nope", "否", "不", "不是", "不对"})
_FIRST_WORD = re.compile(r"(yes|no|是的|不是|是|否)(?=[,.;:!。]|$)", re.IGNORECASE)


def same_polarity(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
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


_SPAN = re.compile(r"\$([^$]+)\$")
_SAYS = re.compile(r".*(?:\b(?:is|are|was|were|equals)\s|[是为])\s*")
_NEGATION = re.compile(r"\b(?:not|no|isn't|cannot|or)\b|不", re.IGNORECASE)


def same_in_sentence(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """What a sentence says: its one formula between dollar signs, or the number after its verb (The area is 25)."""
    if _NEGATION.search(predicted.text):
        return None
    spans = _SPAN.findall(predicted.text)
    if len(spans) == 1 and "$" not in gold.text:
        return _agree(spans[0], gold.text, scope) or None
    said = _SAYS.match(predicted.text)
    if said and gold.quantity and read(predicted.text[said.end() :]).quantity:
        return _agree(predicted.text[said.end() :], gold.text, scope)
    return None


def same_formula(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Formulas by their values at sample points."""
    if predicted.value is not None and not isinstance(predicted.value, Choice | Choices):
        return None
    return equal_formulas(predicted.text, gold.text)


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
