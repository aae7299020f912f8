"""Rules for answers that state something about a quantity: equations, approximations, sentences."""

from __future__ import annotations

import re

from tools.reasoning_data_pipeline.answers.comparison import Scope
from tools.reasoning_data_pipeline.answers.formulas import constants_agree, same_equation_terms
from tools.reasoning_data_pipeline.answers.items import Equation
from tools.reasoning_data_pipeline.answers.reading import Reading, read

_NAME = (
    r"(?:[mn](?=∠))?(?:\\(?:hat|bar|vec|overline|overrightarrow|widehat)\s*\{[A-Za-z]+\}|[^\W\d_]|[∠△⊙Δ|]|(?<=[∠A-Za-z])'?\d)+"
    r"'*(?:_(?:\{[^{}=]+\}|\w+))?(?:\([^()=+*/^-]{1,20}\))?"
)
_NAMES = rf"{_NAME}(?:[ ,]+{_NAME}){{0,7}}"
_SIMPLE_SIDE = re.compile(
    rf"\|?(?:(?:sin|cos|tan)\s*)?{_NAMES}\|?|{_NAME}\s*[/:]\s*{_NAME}|\\frac\s*\{{\s*{_NAMES}\s*\}}\s*\{{\s*{_NAMES}\s*\}}"
)
_TUPLE_OF_NAMES = re.compile(r"\(\s*([A-Za-z](?:_?\d)?(?:\s*,\s*[A-Za-z](?:_?\d)?)+)\s*\)")


def same_equation(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """Equations by their sides or as lines of proportional terms; x = 3 is also the answer 3."""
    first, second = predicted.value, gold.value
    if isinstance(first, Equation) and isinstance(second, Equation):
        return _same_statements(first, second, scope)
    if isinstance(first, Equation) and (values := _said(first)):
        return any(scope.agree(value, gold.text) for value in values)
    if isinstance(second, Equation) and (values := _said(second)):
        return any(scope.agree(predicted.text, value) for value in values)
    return False if isinstance(first, Equation) or isinstance(second, Equation) else None


def _said(equation: Equation) -> tuple[str, ...]:
    """What the equation says that a quantity is: the sides that are no name of it, if they agree; () if nothing."""
    sides = (equation.left, *equation.middle, equation.right)
    values: tuple[str, ...] = ()
    if _is_name(equation.left):
        values = sides[1:][-2 if equation.approximate else -1 :]
    elif constants_agree(sides):  # 4√5 ≈ 8.94, 2 + 3 = 5
        return sides
    elif not equation.approximate and _is_name(equation.right) and read(equation.left).quantity:
        values = (equation.left,)
    return values if len(values) < 2 or constants_agree(values) else ()


def _is_name(side: str) -> bool:
    names = _TUPLE_OF_NAMES.fullmatch(side)
    if names:
        order = re.sub(r"\s", "", names[1]).split(",")
        return order == sorted(order)
    return _SIMPLE_SIDE.fullmatch(side) is not None


def _same_statements(first: Equation, second: Equation, scope: Scope) -> bool | None:
    if (first.approximate or second.approximate or first.middle or second.middle) and (
        (values := _said(first)) and (others := _said(second))
    ):
        same_name = read(first.left).compact == read(second.left).compact
        named = _is_name(first.left) and _is_name(second.left)
        return (same_name or not named) and all(any(scope.agree(value, other) for other in others) for value in values)
    return _same_sides(first, second, scope)


def _same_sides(first: Equation, second: Equation, scope: Scope) -> bool | None:
    if read(first.left).compact == read(second.left).compact and scope.agree(first.right, second.right):
        return True
    agree = same_equation_terms((first.left, first.right), (second.left, second.right))
    if agree is not None:
        return agree
    return any(
        scope.agree(first.left, left) and scope.agree(first.right, right)
        for left, right in ((second.left, second.right), (second.right, second.left))
    )


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


_NOUNS = """
angle area amplitude answer average base circumference coordinates count cost degree density depth diameter difference
distance equation force frequency function gradient height hypotenuse interval length mass maximum mean median minimum
mode number percentage perimeter period point price probability product quotient radius range rate ratio result rule
side slope solution solutions speed sum surface temperature time total value vertex volume weight width
"""
_NOUN = "|".join(_NOUNS.split())
_SAYS = re.compile(
    r"(.*)(?:\b(?:is|are|was|were|equals)\s+(?:equal to\s+|exactly\s+|approximately\s+|about\s+)?|[是为]\s*)(\S.*)"
)
_LABELS = re.compile(rf"(?:the )?(?:{_NOUN})(?: (?:of|for) (?:the )?[A-Za-z]+)?\s*:?\s+(\S.*)", re.IGNORECASE)
_DENIES = re.compile(
    r"\b(?:not|no|isn't|cannot|or|neither|nor|never|half|twice|double|triple|if|unless|except|without|less|more|least|most"
    r"|fewer|greater|below|above|under|over|minus|negative|opposite|between)\b|不|非",
    re.IGNORECASE,
)


def same_in_sentence(predicted: Reading, gold: Reading, scope: Scope) -> bool | None:
    """What a sentence says of a quantity (The area is 25), and no sentence that says it with a but."""
    if gold.words is not None and gold.quantity is None or _DENIES.search(predicted.text):
        return None
    said = _SAYS.fullmatch(predicted.text) or _LABELS.fullmatch(predicted.text)
    if said is None:
        return None
    claim = read(said[said.lastindex or 0])
    if claim.words is not None and claim.quantity is None:
        return None
    return scope.agree(claim.text, gold.text) or None
