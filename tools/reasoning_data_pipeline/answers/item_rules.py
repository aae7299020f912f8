"""Rules for answers with parts: options, lists, intervals, ranges, chains."""

from __future__ import annotations

from tools.reasoning_data_pipeline.answers.choices import Choice, Choices, Order
from tools.reasoning_data_pipeline.answers.comparison import Scope
from tools.reasoning_data_pipeline.answers.formulas import same_inequality
from tools.reasoning_data_pipeline.answers.items import Items
from tools.reasoning_data_pipeline.answers.opposites import any_opposites
from tools.reasoning_data_pipeline.answers.quantities import quantities_agree
from tools.reasoning_data_pipeline.answers.reading import Reading, read
from tools.reasoning_data_pipeline.answers.relations import Chain
from tools.reasoning_data_pipeline.answers.spans import Span, spans_agree
from tools.reasoning_data_pipeline.answers.values import Ratio


def same_choice(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Option letters, with their texts where both give one; an option's text also stands for the option."""
    first, second = predicted.value, gold.value
    if isinstance(first, Choice) and isinstance(second, Choice):
        texts = first.text and second.text
        return first.letter == second.letter and (not texts or scope.agree(first.text, second.text))
    if isinstance(first, Choices | Order) or isinstance(second, Choices | Order):
        return _same_letters(first, second)
    if isinstance(first, Choice) and first.text:
        return scope.agree(first.text, gold.text) or None
    if isinstance(second, Choice) and second.text:
        return scope.agree(predicted.text, second.text) or None
    return None


def _same_letters(first: object, second: object) -> bool | None:
    """Several options in any order, letters in an order in theirs: as one word or listed, B, A, D, C."""
    if isinstance(first, Choices | Order) and isinstance(second, Choices | Order):
        if type(first) is type(second):
            return first == second
        chosen, order = (first, second) if isinstance(first, Choices) else (second, first)
        return isinstance(chosen, Choices) and chosen.written == order.letters
    return None


def same_span(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Ranges and dimensions by their numbers; as a difference or product against a single number only."""
    first, second = predicted.value, gold.value
    if isinstance(first, Ratio) and isinstance(second, Span):
        first = first.span
    if isinstance(second, Ratio) and isinstance(first, Span):
        second = second.span
    if isinstance(first, Span) and isinstance(second, Span):
        return spans_agree(first, second)
    for span, other in ((first, gold), (second, predicted)):
        if isinstance(span, Span):
            if span.worth is None or other.quantity is None:
                return False
            return quantities_agree(span.worth, other.quantity)
    return None


def same_chain(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """a < b < c term by term: an order of names is told from another one without algebra."""
    first, second = predicted.value, gold.value
    if not isinstance(first, Chain) or not isinstance(second, Chain):
        alone = first if isinstance(first, Chain) else second
        return False if isinstance(alone, Chain) and len(alone.terms) > 3 else None
    if first.relations == second.relations and all(map(scope.agree, first.terms, second.terms)):
        return True
    if len(first.terms) == len(second.terms) == 2 and first.relations == second.relations:
        if first.relations == ("≠",):
            return all(map(scope.agree, first.terms, reversed(second.terms)))
        return same_inequality(first.terms, second.terms)
    return False


def same_items(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Lists, sets, tuples, intervals, unions and matrices by their items, in order where the order means something."""
    first, second = predicted.value, gold.value
    if isinstance(first, Items) and isinstance(second, Items):
        if len(first.items) != len(second.items) or not _same_brackets(first, second):
            return False
        ordered = first.ordered or second.ordered or any_opposites(first.items)
        return (_same_in_order if ordered else _same_multiset)(first.items, second.items, scope)
    if isinstance(first, Items):
        return _same_alone(first, gold, scope)
    return _same_alone(second, predicted, scope) if isinstance(second, Items) else None


def _same_alone(items: Items, other: Reading, scope: Scope) -> bool | None:
    """Items against one answer: {5} is 5, and no number is several."""
    if len(items.items) == 1 and other.value is None:
        return scope.agree(items.items[0], other.text)
    return None if other.quantity is None else False


def _same_in_order(first: tuple[str, ...], second: tuple[str, ...], scope: Scope) -> bool:
    return all(map(scope.agree, first, second))


def _same_brackets(first: Items, second: Items) -> bool:
    if first.variable and second.variable and first.variable != second.variable:
        return False
    loose = ("", "respectively", "labels")
    if first.opening not in loose and second.opening not in loose:
        unordered = not first.ordered and not second.ordered
        return unordered or (first.opening, first.closing) == (second.opening, second.closing)
    if {first.closing, second.closing} == {",", "or"}:  # 3 or -3 are two solutions, red or blue is a hedge
        return all(read(item).words is None for item in first.items + second.items)
    return True


def _same_multiset(first: tuple[str, ...], second: tuple[str, ...], scope: Scope) -> bool:
    left = list(second)
    for item in first:
        match = next((other for other in left if scope.agree(item, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True
