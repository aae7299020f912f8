"""Formulas, equations, intervals, lists, points and matrices."""

from __future__ import annotations

import random

from answer_kinds.case import Case, Draw, another_digit


def listing(chance: random.Random) -> Case:
    """Numbers in any order."""
    values = chance.sample(range(11, 999), 3)
    gold = ", ".join(map(str, values))
    spellings = (", ".join(map(str, values[::-1])), f"{values[0]}, {values[1]} and {values[2]}", rf"\{{{gold}\}}")
    changed = another_digit(chance, str(values[1]))
    changes = (
        f"{values[0]}, {changed}, {values[2]}",
        f"{values[0]}, {values[1]}",
        f"{values[0]}, -{values[1]}, {values[2]}",
        gold + ", 7",
    )
    return Case("list", gold, spellings, changes)


def point(chance: random.Random) -> Case:
    """A point of the plane."""
    first, second = chance.sample(range(2, 60), 2)
    spellings = (
        f"({first}, {second})",
        rf"\left({first}, {second}\right)",
        f"(x,y) = ({first},{second})",
        f"P({first},{second})",
    )
    changes = (
        f"({second},{first})",
        f"({first},-{second})",
        f"[{first},{second}]",
        f"({first},{second}]",
        f"({first},{second + 1})",
        f"{first}{second}",
    )
    return Case("point", f"({first},{second})", spellings, changes)


def interval(chance: random.Random) -> Case:
    """An interval."""
    low = chance.randint(-20, 5)
    high = low + chance.randint(2, 30)
    spellings = (
        rf"[{low}, {high})",
        rf"\left[{low}, {high}\right)",
        f"{low} <= x < {high}",
        rf"{low} \le x < {high}",
        f"{{x | {low} ≤ x < {high}}}",
    )
    changes = (
        f"({low},{high})",
        f"[{low},{high}]",
        f"({low},{high}]",
        f"[{low},{high + 1})",
        f"[{high},{low})",
        f"x>{low}",
        f"[{low},\\infty)",
    )
    return Case("interval", f"[{low},{high})", spellings, changes)


def value_of_function(chance: random.Random) -> Case:
    """What a function is somewhere."""
    at, value = chance.sample(range(2, 30), 2)
    gold = f"f({at})={value}"
    changes = (
        f"f({at + 1})={value}",
        f"f({at})={value + 1}",
        f"g({at})={value}",
        f"f({2 * at})={2 * value}",
        f"f({at})=-{value}",
        f"f(-{at})={value}",
    )
    return Case("function value", gold, (f"f({at}) = {value}", f"{value} = f({at})"), changes)


def polynomial(chance: random.Random) -> Case:
    """A polynomial."""
    first, second, third = (chance.randint(2, 19) for _ in range(3))
    gold = f"{first}x^2+{second}x-{third}"
    changes = (
        f"{first + 1}x^2+{second}x-{third}", f"{first}x^2-{second}x-{third}",
        f"{first}x^2+{second}x+{third}", f"{first}x^3+{second}x-{third}",
        f"{first}y^2+{second}y-{third}", f"{first}(x^2+{second}x-{third})", f"{first}x^2+{second}x", f"-({gold})",
    )  # fmt: skip
    return Case(
        "polynomial", gold, (f"{second}x + {first}x^2 - {third}", f"-{third}+{first}x^{{2}}+{second}x"), changes
    )


def root(chance: random.Random) -> Case:
    """A root with a factor."""
    factor, radicand = chance.randint(2, 9), chance.choice([2, 3, 5, 6, 7, 10, 11, 13])
    gold = rf"{factor}\sqrt{{{radicand}}}"
    changes = (
        rf"{factor + 1}\sqrt{{{radicand}}}", rf"{factor}\sqrt{{{radicand + 1}}}", rf"-{gold}", f"{factor * radicand}",
        rf"{factor}\sqrt[3]{{{radicand}}}", rf"{factor}+\sqrt{{{radicand}}}",
        rf"\frac{{{factor}}}{{\sqrt{{{radicand}}}}}",
    )  # fmt: skip
    return Case(
        "root",
        gold,
        (
            rf"\sqrt{{{factor**2 * radicand}}}",
            f"{factor}√{radicand}",
            rf"{factor} \cdot \sqrt{{{radicand}}}",
            f"{factor}sqrt({radicand})",
        ),
        changes,
    )


def circle(chance: random.Random) -> Case:
    """A multiple of pi."""
    factor = chance.randint(2, 99)
    spellings = (f"{factor}π", rf"{factor} \pi", rf"{factor}\cdot\pi", f"{factor}π square units")
    return Case(
        "pi",
        rf"{factor}\pi",
        spellings,
        (
            rf"{factor + 1}\pi",
            rf"-{factor}\pi",
            str(factor),
            rf"\frac{{{factor}}}{{\pi}}",
            rf"{factor}\pi^2",
            rf"{factor}+\pi",
        ),
    )


def equation(chance: random.Random) -> Case:
    """A line."""
    slope, shift = chance.randint(2, 19), chance.randint(2, 19)
    changes = (
        f"y={slope + 1}x+{shift}",
        f"y={slope}x-{shift}",
        f"y=-{slope}x+{shift}",
        f"x={slope}y+{shift}",
        f"y={slope}x^2+{shift}",
        f"y<{slope}x+{shift}",
        f"y={shift}x+{slope}" if slope != shift else "y=1",
    )
    return Case(
        "equation",
        f"y={slope}x+{shift}",
        (f"y = {slope}x + {shift}", f"{slope}x+{shift}=y", f"y-{slope}x={shift}", f"y={shift}+{slope}x"),
        changes,
    )


def inequality(chance: random.Random) -> Case:
    """A condition on one variable."""
    bound = chance.randint(2, 99)
    changes = (
        f"x<{bound}",
        f"x>={bound}",
        f"x>{bound + 1}",
        f"x>-{bound}",
        f"y>{bound}",
        f"x={bound}",
        str(bound),
        f"x≠{bound}",
    )
    return Case(
        "inequality",
        f"x>{bound}",
        (f"x > {bound}", f"{bound}<x", rf"({bound},\infty)", f"{{x | x > {bound}}}"),
        changes,
    )


def chain(chance: random.Random) -> Case:
    """An order of names."""
    first, second, third = (f"f({value})" for value in chance.sample(range(1, 9), 3))
    changes = (
        f"{second}<{first}<{third}",
        f"{first}<{third}<{second}",
        f"{first}>{second}>{third}",
        f"{first}<{second}={third}",
        f"{first}<{second}",
    )
    return Case(
        "chain", f"{first}<{second}<{third}", (f"{first} < {second} < {third}", f"{third}>{second}>{first}"), changes
    )


def matrix(chance: random.Random) -> Case:
    """A matrix."""
    a, b, c, d = chance.sample(range(1, 60), 4)
    changes = (
        rf"\begin{{pmatrix}}{b}&{a}\\{c}&{d}\end{{pmatrix}}", rf"\begin{{pmatrix}}{a}&{b}\\{c}&-{d}\end{{pmatrix}}",
        rf"\begin{{vmatrix}}{a}&{b}\\{c}&{d}\end{{vmatrix}}", rf"\begin{{pmatrix}}{a}&{c}\\{b}&{d}\end{{pmatrix}}",
    )  # fmt: skip
    spellings = (
        rf"\begin{{bmatrix}}{a} & {b} \\ {c} & {d}\end{{bmatrix}}",
        rf"\left(\begin{{array}}{{cc}}{a} & {b} \\ {c} & {d}\end{{array}}\right)",
    )
    return Case("matrix", rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d}\end{{pmatrix}}", spellings, changes)


KINDS: tuple[Draw, ...] = (
    listing,
    point,
    interval,
    value_of_function,
    polynomial,
    root,
    circle,
    equation,
    inequality,
    chain,
    matrix,
)
