"""Formulas as answers: equal by value, proportional as equations; and which ones only algebra can compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from tools.reasoning_data_pipeline.answers.expression_values import (
    FLOAT_TOLERANCE,
    Value,
    formulas_agree,
    proportion,
    value_at,
)
from tools.reasoning_data_pipeline.answers.expressions import CONSTANTS, Formula, UnreadableFormula, read_formula
from tools.reasoning_data_pipeline.answers.quantities import read_quantity
from tools.reasoning_data_pipeline.answers.symbols import is_based, is_code, is_compound
from tools.reasoning_data_pipeline.answers.units import NO_UNIT, read_measure, read_unit

MAX_DECIMALS = 30
"""Of a constant that is no rounding."""
_MATHEMATICAL = re.compile(r"[\d+*/^\\π√!|°]")
_WORDS = re.compile(r"(?<![A-Za-z\d\\{])(?!arc|sin|cos|tan|cot|sec|csc|log|exp|abs|sqrt)[A-Za-z]{3,}|[A-Za-z]{9}")


def equal_formulas(predicted: str, gold: str) -> bool | None:
    """Whether two normalised texts are equal formulas, by their values at sample points; None if they are none."""
    if not (_MATHEMATICAL.search(predicted) or _MATHEMATICAL.search(gold)):
        return None
    pair = _both(predicted, gold)
    agree = formulas_agree(*pair) if pair else None
    if agree:
        return None if _is_name(predicted) or _is_name(gold) else True
    plain = (_without_degrees(predicted, gold) if pair else None) or _without_units(predicted, gold)
    return agree if plain is None else formulas_agree(*plain)


def _is_name(text: str) -> bool:
    """Whether letters and digits side by side are a name here, no product: H2O, A1B2."""
    return is_compound(text) or is_code(text)


def constants_agree(sides: Sequence[str]) -> bool:
    """Whether texts are constants, perhaps with units, of which each is the first one or its rounding."""
    values = [_constant(side) for side in sides]
    first = values[0]
    return first is not None and all(value is not None and _is_rounding(value, first) for value in values[1:])


def _constant(text: str) -> tuple[Value, int] | None:
    """The value of a constant without its unit, and its decimals; None where the text is none."""
    quantity = read_quantity(text)
    if quantity:
        return quantity.value, quantity.decimals if not quantity.exact else MAX_DECIMALS
    match = _FORMULA_WITH_UNIT.fullmatch(text)
    formula = _formula(text) or (_formula(match[1]) if match and _is_unit(match[2].strip()) else None)
    value = value_at(formula.root, {}) if formula and not formula.names else None
    return None if formula is None or value is None else (value, MAX_DECIMALS if formula.exact else formula.decimals)


def _is_rounding(value: tuple[Value, int], exact: tuple[Value, int]) -> bool:
    """Whether two constants differ by no more than the last decimal of the coarser one."""
    decimals = min(value[1], exact[1])
    difference = abs(complex(value[0]) - complex(exact[0]))
    return difference <= max(FLOAT_TOLERANCE * abs(complex(exact[0])), 10.0**-decimals * (decimals < MAX_DECIMALS))


def _is_unit(spelled: str) -> bool:
    return bool(read_measure(spelled)) or (bool(spelled) and read_unit(spelled) is NO_UNIT)


def same_equation_terms(predicted: tuple[str, str], gold: tuple[str, str]) -> bool | None:
    """Whether two equations, each given by its sides, have proportional terms; None where a side is no formula."""
    pair = _differences(predicted, gold)
    if pair is None:
        return None
    ratio = proportion(*pair)
    return None if ratio is None else bool(ratio)


def same_inequality(predicted: tuple[str, ...], gold: tuple[str, ...]) -> bool | None:
    """Whether two inequalities of one direction, each given by its sides, say the same; None where algebra may tell."""
    pair = _differences(predicted, gold)
    if pair is None:
        return False
    ratio = proportion(*pair)
    if ratio:
        return isinstance(ratio, Fraction) and ratio > 0
    return None if len({*pair[0].names, *pair[1].names}) == 1 else False


def _differences(predicted: tuple[str, ...], gold: tuple[str, ...]) -> tuple[Formula, Formula] | None:
    return _both(*(f"({left})-({right})" for left, right in (predicted, gold)))


def _without_degrees(predicted: str, gold: str) -> tuple[Formula, Formula] | None:
    """The formulas of an angle in degrees and of a plain number of degrees: 60° + 30° and 90."""
    if ("°" in predicted) == ("°" in gold) or "π" in predicted + gold:
        return None
    return _both(predicted.replace("°", ""), gold.replace("°", ""))


_UNIT_PLACE = re.compile(r"[\d)}π!] ?[A-Za-zμΩ°]|(?<![A-Za-z])[A-Za-z] [A-Za-zμΩ°]")
_FORMULA_WITH_UNIT = re.compile(
    r"(.*(?:[\d)}π!]|(?<![A-Za-z])[A-Za-z](?= )))"
    r"( ?(?:(?:square|sq\.?|cubic) )?[A-Za-zμΩ°]{2}[A-Za-z/*^{}\d -]*| [A-Za-z](?:\^\{?\d\}?)?)"
)


def _without_units(predicted: str, gold: str) -> tuple[Formula, Formula] | None:
    """The formulas without their units, where at most one has a unit or both have the same: 25π cm^2 and 25π."""
    if not (_UNIT_PLACE.search(predicted) or _UNIT_PLACE.search(gold)):
        return None
    formulas, units = [], []
    for text in (predicted, gold):
        match = _FORMULA_WITH_UNIT.fullmatch(text)
        spelled = match[2].strip() if match else ""
        unit = read_measure(spelled) or (NO_UNIT if _is_unit(spelled) else None)
        formulas.append(match[1].rstrip() if match and unit else text)
        units.append(unit)
    measured = [unit for unit in units if unit and unit.powers]
    if units == [None, None] or (len(measured) == 2 and measured[0] != measured[1]):
        return None
    return _both(*formulas)


def _both(predicted: str, gold: str) -> tuple[Formula, Formula] | None:
    first, second = _formula(predicted), _formula(gold)
    return None if first is None or second is None else (first, second)


@lru_cache(maxsize=1024)
def _formula(text: str) -> Formula | None:
    if _WORDS.search(text) or is_based(text):
        return None
    try:
        return read_formula(text)
    except UnreadableFormula:
        return None


_CALCULUS = re.compile(
    r"\\(?:int|iint|oint|sum|prod|lim|partial|nabla|det|gcd|max|min|mod|bmod)(?![A-Za-z])|\\frac\s*\{\s*d\b"
)
_RELATION = re.compile("[<>≤≥∪∩]")
_ALGEBRAIC = re.compile(r"[\d\\=+*/^<>≤≥∪∩∞π]")
_NAME = re.compile(r"(?<![A-Za-z\\])(?!(?:sin|cos|tan|log|ln|exp)\b)[A-Za-z](?:_\w|\d)?(?![a-z])")
MAX_ALGEBRA_CHARS = 300


def needs_algebra(predicted: str, gold: str) -> bool:
    """Whether computer algebra could find two texts equal that no rule can: calculus, or two relations."""
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
        return len(set(_NAME.findall(predicted)) | set(_NAME.findall(gold))) == 1 and "=>" not in predicted + gold
    return bool(_CALCULUS.search(predicted) or _CALCULUS.search(gold))
