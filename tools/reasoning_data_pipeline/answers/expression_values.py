"""What a formula is worth: its value at a point, and whether two formulas agree at all of them.

Rationals stay exact while they are short; everything else is complex floating point. A value beyond the range raises
OverflowError, one that is not defined ZeroDivisionError or ValueError: 9^9^9 costs nothing, and neither it nor 1/0 ever
equals a number.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from tools.reasoning_data_pipeline.answers.expressions import Formula, Node, sample_points
from tools.reasoning_data_pipeline.answers.quantities import Quantity, numbers_agree

MAX_BITS = 1000
"""Longer fractions go on as floating point, which all shorter ones fit into."""
FLOAT_TOLERANCE = 1e-9
MIN_POINTS = 3
_ROUNDED_TOLERANCE = 1e-3
_ROUNDED_FACTOR = 4
"""By how much a constant such as pi may make a coefficient's rounding larger."""
_ROUNDING_ERROR = 1e-12

Value = Fraction | complex
_CONSTANTS: Mapping[str, complex] = {"π": complex(math.pi), "e": complex(math.e), "i": 1j}


def formulas_agree(predicted: Formula, gold: Formula) -> bool | None:
    """Whether two formulas are equal; None where their values cannot tell.

    Constants with decimals may be roundings of each other, as in `numbers_agree`; everything else must agree exactly,
    or to 1e-9 where roots and functions make it a floating point number.
    """
    names = tuple(sorted({*predicted.names, *gold.names}))
    if not names:
        return _constants_agree(predicted, gold)
    checked = 0
    for first, second in _values(predicted, gold, names):
        if not _equal(first, second, FLOAT_TOLERANCE):
            return False
        checked += 1
    return True if checked >= MIN_POINTS else None


def proportion(predicted: Formula, gold: Formula) -> Value | None:
    """The constant that one formula is times the other, 0 where there is none, None where it is unknown.

    Set to 0, two formulas in proportion are one equation.
    """
    names = tuple(sorted({*predicted.names, *gold.names}))
    ratios: list[Value] = []
    for first, second in _values(predicted, gold, names):
        if abs(first) < FLOAT_TOLERANCE or abs(second) < FLOAT_TOLERANCE:  # type: ignore[operator]  # of a union
            return Fraction(0)
        ratios.append(first / second)
    if len(ratios) < MIN_POINTS:
        return None
    return ratios[0] if all(_equal(ratio, ratios[0], FLOAT_TOLERANCE) for ratio in ratios) else Fraction(0)


def _values(predicted: Formula, gold: Formula, names: tuple[str, ...]) -> Iterator[tuple[Value, Value]]:
    """The values of both formulas at the points where both have one; roots of what has a name in it stay real."""
    rooted = has_root(predicted.root) or has_root(gold.root)
    for point in sample_points(names, positive=rooted):
        if rooted and not (_roots_are_real(predicted.root, point) and _roots_are_real(gold.root, point)):
            continue
        first, second = value_at(predicted.root, point), value_at(gold.root, point)
        if first is not None and second is not None:
            yield first, second


def has_root(node: Node) -> bool:
    """Whether a root, or a power that is no whole number, is somewhere in a formula."""
    if node[0] in ("number", "name"):
        return False
    fractional = node[0] == "^" and node[2][0] not in ("number", "negative", "name")
    return node[0] in ("root", "sqrt") or fractional or any(map(has_root, node[1:]))


def _roots_are_real(node: Node, point: Mapping[str, Fraction]) -> bool:
    """Whether no root of a formula is taken of a negative number at this point."""
    if node[0] in ("number", "name"):
        return True
    if node[0] in ("root", "sqrt") or (node[0] == "^" and has_root(node)):
        radicand = value_at(node[1], point)
        is_odd = node[0] == "root" and node[2] == ("number", Fraction(3))
        if isinstance(radicand, Fraction | complex) and complex(radicand).real < 0 and not is_odd:
            return False
    return all(_roots_are_real(child, point) for child in node[1:])


def value_at(root: Node, point: Mapping[str, Fraction]) -> Value | None:
    """The value of a formula at a point; None where it has none or too large a one."""
    try:
        value = evaluate(root, point)
    except (OverflowError, ZeroDivisionError, ValueError):
        return None
    return value if isinstance(value, Fraction) or cmath.isfinite(value) else None


def _constants_agree(predicted: Formula, gold: Formula) -> bool | None:
    first, second = value_at(predicted.root, {}), value_at(gold.root, {})
    if first is None or second is None:
        return None if first is second else False
    if _equal(first, second, FLOAT_TOLERANCE) or (predicted.exact and gold.exact):
        return _equal(first, second, FLOAT_TOLERANCE)
    if isinstance(first, complex) and isinstance(second, complex):
        fineness = min(formula.decimals for formula in (predicted, gold) if not formula.exact)
        if predicted.decimals == gold.decimals or abs(first - second) > _ROUNDED_FACTOR * 10.0**-fineness:
            return False
        return _equal(first, second, _ROUNDED_TOLERANCE)
    left, right = _as_quantity(first, predicted), _as_quantity(second, gold)
    return left is not None and right is not None and numbers_agree(left, right)


def _as_quantity(value: Value, formula: Formula) -> Quantity | None:
    """A real constant with the decimals its formula is written with."""
    if isinstance(value, complex):
        if abs(value.imag) > FLOAT_TOLERANCE:
            return None
        value = Fraction(value.real)
    return Quantity(value, decimals=formula.decimals, exact=formula.exact)


def _equal(first: Value, second: Value, tolerance: float) -> bool:
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    left, right = complex(first), complex(second)
    return abs(left - right) <= max(_ROUNDING_ERROR, tolerance * max(abs(left), abs(right)))


def evaluate(node: Node, point: Mapping[str, Fraction]) -> Value:
    """The value of a syntax tree. Raises OverflowError, ZeroDivisionError or ValueError where there is none."""
    kind = node[0]
    if kind == "number":
        return _bounded(node[1])
    if kind == "name":
        return point[node[1]] if node[1] in point else _CONSTANTS[node[1]]
    return _bounded(_OPERATIONS[kind](*(evaluate(child, point) for child in node[1:])))


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        return complex(float(value))
    return value


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if abs(base) == 1:
            return base if exponent % 2 else Fraction(1)
        if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) <= MAX_BITS:
            return base**exponent.numerator
    return complex(base) ** complex(exponent)


def _root(radicand: Value, index: Value) -> Value:
    """The real root where there is one, also of a negative number, exact for perfect powers; else the principal one."""
    if isinstance(radicand, Fraction) and isinstance(index, Fraction) and index.denominator == 1 and 0 < index <= 16:
        degree, sign = index.numerator, -1 if radicand < 0 else 1
        if sign > 0 or degree % 2:
            size = abs(float(radicand)) ** (1 / degree)
            root = Fraction(round(size)) if size < 2**52 else Fraction(0)
            return sign * root if root**degree == abs(radicand) else complex(sign * size)
    return complex(radicand) ** (1 / complex(index))


def _factorial(value: Value) -> Value:
    if isinstance(value, Fraction) and value.denominator == 1 and value >= 0:
        if value > 1000:
            raise OverflowError(f"{str(value)[:20]}!")
        return Fraction(math.factorial(value.numerator))
    return complex(math.gamma(_real(value) + 1))


def _binomial(above: Value, below: Value) -> Value:
    if not all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in (above, below)):
        raise ValueError(f"binomial of {str(above)[:20]} and {str(below)[:20]}")
    chosen = min(below.real, above.real - below.real)
    if chosen > 1000 or above.real > 10**9:
        raise OverflowError(f"binomial of {str(above)[:20]} and {str(below)[:20]}")
    return Fraction(math.comb(int(above.real), int(below.real)))


def _real(value: Value) -> float:
    number = complex(value)
    if abs(number.imag) > FLOAT_TOLERANCE:
        raise ValueError(f"{number} is not real")
    return number.real


def _of_complex(function: Callable[[complex], complex]) -> Callable[[Value], Value]:
    return lambda value: function(complex(value))


def _reciprocal(function: Callable[[complex], complex]) -> Callable[[Value], Value]:
    return lambda value: 1 / function(complex(value))


_OPERATIONS: Mapping[str, Callable[..., Value]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "^": _power,
    "negative": lambda value: -value,
    "abs": abs,
    "!": _factorial,
    "%": lambda value: value / 100,
    "°": lambda value: complex(value) * math.pi / 180,
    "root": _root,
    "sqrt": lambda value: _root(value, Fraction(2)),
    "binom": _binomial,
    "log": _of_complex(cmath.log10),
    "lg": _of_complex(cmath.log10),
    "ln": _of_complex(cmath.log),
    "exp": _of_complex(cmath.exp),
    "logbase": lambda value, base: cmath.log(complex(value)) / cmath.log(complex(base)),
    **{name: _of_complex(getattr(cmath, name)) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": _of_complex(getattr(cmath, f"a{name}")) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "sec": _reciprocal(cmath.cos),
    "csc": _reciprocal(cmath.sin),
    "cot": _reciprocal(cmath.tan),
}
