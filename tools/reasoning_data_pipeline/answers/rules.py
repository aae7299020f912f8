"""The rules that compare two answers, cheapest first; the first that can tell decides.

A rule answers True or False where its reading of both answers is the only sensible one, None where it is not. `compare`
names the rule that decided, or says that only algebra can (`NEEDS_ALGEBRA`); what no rule calls equal is different.
"""

from __future__ import annotations

from dataclasses import replace

from tools.reasoning_data_pipeline.answers.choices import Choice, Choices
from tools.reasoning_data_pipeline.answers.comparison import MAX_RECURSION, RELAXED, TOP, Finding, Rule, Scope
from tools.reasoning_data_pipeline.answers.equation_rules import same_equation, same_in_sentence, same_polarity
from tools.reasoning_data_pipeline.answers.formulas import equal_formulas, needs_algebra
from tools.reasoning_data_pipeline.answers.item_rules import same_chain, same_choice, same_items, same_span
from tools.reasoning_data_pipeline.answers.quantities import quantities_agree
from tools.reasoning_data_pipeline.answers.reading import Reading
from tools.reasoning_data_pipeline.answers.scores import relaxed_accepts
from tools.reasoning_data_pipeline.answers.symbols import case_differs
from tools.reasoning_data_pipeline.answers.values import Date, Ratio, Time, Weekday

NEEDS_ALGEBRA = "algebra"
DIFFERENT = "different"


def compare(predicted: Reading, gold: Reading, scope: Scope = TOP) -> Finding:
    """Whether two answers agree, by the first rule that can tell."""
    if predicted.text == gold.text:
        return Finding(True, "same text")
    if predicted.text and gold.text and scope.depth <= MAX_RECURSION:
        if scope.compare is None:
            scope = _COMPARING[scope.relaxed]
        for name, rule in RULES if predicted.value or gold.value else PLAIN_RULES:
            agree = rule(predicted, gold, scope)
            if agree is not None:
                return Finding(agree, name)
        if needs_algebra(predicted.text, gold.text):
            return Finding(None, NEEDS_ALGEBRA)
    return Finding(False, DIFFERENT)


def same_number(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Two numbers: exactly, as roundings, or within the tolerance of charts."""
    if predicted.quantity is None or gold.quantity is None:
        return None
    if scope.relaxed and relaxed_accepts(predicted.quantity, gold.quantity):
        return True
    return quantities_agree(predicted.quantity, gold.quantity)


def same_spelling(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """The same but for spaces and subscript marks, or, in plain words, case, punctuation and articles."""
    if predicted.compact == gold.compact:
        return True
    if predicted.words is None or predicted.words != gold.words:
        return None
    return None if case_differs(predicted.text, gold.text) else True


def same_moment(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Dates, times of day, days of the week and ratios in their several spellings."""
    first, second = predicted.value, gold.value
    if isinstance(first, Date) and isinstance(second, Date):
        if len(first.readings) == len(second.readings):
            return first == second
        return not set(first.readings).isdisjoint(second.readings)
    if isinstance(first, Time) and isinstance(second, Time):
        return _same_time(first, second)
    if isinstance(first, Ratio) and isinstance(second, Ratio):
        return first.span == second.span if first.span and second.span else first == second
    return first == second if isinstance(first, Weekday) and isinstance(second, Weekday) else None


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


def same_formula(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Formulas by their values at sample points."""
    for value in (predicted.value, gold.value):
        if value is not None and not isinstance(value, Choice | Choices):
            return None
    return equal_formulas(predicted.text, gold.text)


RULES: tuple[tuple[str, Rule], ...] = (
    ("number", same_number),
    ("spelling", same_spelling),
    ("choice", same_choice),
    ("range or size", same_span),
    ("date, time or ratio", same_moment),
    ("equation", same_equation),
    ("yes or no", same_polarity),
    ("order", same_chain),
    ("items", same_items),
    ("formula", same_formula),
    ("sentence", same_in_sentence),
)
PLAIN_RULES = tuple(
    item for item in RULES if item[1] in (same_number, same_spelling, same_polarity, same_formula, same_in_sentence)
)
"""Those that can tell where neither answer has a value of its own kind."""
_COMPARING = {scope.relaxed: replace(scope, compare=compare) for scope in (TOP, RELAXED)}
"""The scopes of whole answers, able to compare their parts."""
