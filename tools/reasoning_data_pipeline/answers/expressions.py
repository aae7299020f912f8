r"""A bounded reader of formulas, and points to compare their values at.

The grammar is what answers use: + - * / ^ ! % | |, implicit products, `\frac \sqrt \binom`, the common functions, pi, e
and i. Nothing is ever handed to `eval`, and length and nesting are bounded. Two formulas whose values agree at all
sample points are taken as equal: a polynomial identity that holds at random points is an identity but for a vanishing
chance (Schwartz 1980, doi 10.1145/322217.322225).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 400
MAX_DEPTH = 40
_MAX_LETTER_RUN = 4
CONSTANTS = frozenset({"π", "e", "i"})
"""Names with a value of their own: pi, Euler's number and the imaginary unit."""

Node = tuple
"""("number", Fraction) | ("name", str) | (operator or function, Node, ...)."""

FUNCTIONS = (
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log",
    "exp", "abs", "ln", "lg",
)  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)|(?P<function>"
    + "|".join(FUNCTIONS)
    + r")(?![a-z]{2})"
    r"|(?P<command>\\(?:frac|sqrt|binom|log))|(?P<pi>\\?pi(?![a-z])|π)|(?P<name>[A-Za-zα-ωΑ-Ω](?:_\{?[A-Za-z0-9]+\}?|\d+)?)|(?P<power>\*\*)|(?P<mark>[-+*/^!|(){}\[\]_%°√]))"
)
_CLOSING = {"(": ")", "{": "}", "[": "]"}


class UnreadableFormula(ValueError):
    """The text is no formula of the bounded grammar; `str()` says where reading stopped."""


@dataclass(frozen=True)
class Formula:
    """A formula that was read.

    Attributes:
        root: its syntax tree.
        names: free variables, sorted; empty for a constant.
        decimals: most digits after a decimal point in it.
        exact: whether it has no decimal point at all, so that it rounds nothing.
    """

    root: Node
    names: tuple[str, ...]
    decimals: int
    exact: bool


def read_formula(text: str) -> Formula:
    """The formula that all of `text` spells; raises UnreadableFormula. `text` is normalised."""
    if len(text) > MAX_CHARS:
        raise UnreadableFormula(f"{len(text)} characters are more than {MAX_CHARS}")
    reader = _Reader(list(_tokens(text)))
    root = reader.sum(0)
    if reader.kind:
        raise UnreadableFormula(f"{reader.value!r} follows the formula in {text[:60]!r}")
    names = set(_names(root)) - CONSTANTS
    points = [value.partition(".")[2] for kind, value in reader.tokens if kind == "number" and "." in value]
    return Formula(root, tuple(sorted(names)), max(map(len, points), default=0), not points)


def _names(node: Node) -> Iterator[str]:
    r"""The names in a formula, which its tokens may spell otherwise: in `\sqrt a2` it is `a`."""
    if node[0] == "name":
        yield node[1]
    elif node[0] != "number":
        for child in node[1:]:
            yield from _names(child)


def _plain(name: str) -> str:
    """A name with its subscript in one spelling: x_{1} and x1 are x_1."""
    plain = name.replace("_", "").replace("{", "").replace("}", "")
    return f"{plain[0]}_{plain[1:]}" if plain[1:].isalnum() else plain


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = run = 0
    before = ""
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise UnreadableFormula(f"{text[position : position + 10]!r} is no part of a formula")
        kind, value = match.lastgroup, match[match.lastgroup]
        run = run + 1 if kind == "name" and match.start(kind) == position else int(kind == "name")
        if run > _MAX_LETTER_RUN:
            raise UnreadableFormula(f"{text[:60]!r} has a word in it")
        if kind == "number" and before == "name":
            raise UnreadableFormula(f"{value!r} follows a name, as in 2 x 10")
        position = match.end()
        if kind == "name" and (call := _call_after(value, text, position)):
            value, position = value + call, position + len(call)
        before = kind
        yield {"power": ("mark", "^"), "pi": ("name", "π")}.get(kind, (kind, value.replace(" ", "")))


_CALL = re.compile(r"\((?:[^()]|\([^()]*\))*\)")
_ATOMS = re.compile(r"\(\s*-?(?:\d+(?:\.\d+)?|[A-Za-zα-ω](?:_?\d)?)(?:\s*,\s*-?(?:\d+(?:\.\d+)?|[A-Za-z]))*\s*\)")


def _call_after(name: str, text: str, position: int) -> str:
    """The parentheses of f(x) or g(5), which are no product; "" after a factor, as in x(x+1)."""
    call = _CALL.match(text, position) if text[position : position + 1] == "(" and name not in CONSTANTS else None
    return call[0] if call and (name[0] in "fg" or _ATOMS.fullmatch(call[0])) else ""


class _Reader:
    """Recursive descent over the tokens; one method per level of binding, loosest first."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self._position = 0

    @property
    def kind(self) -> str:
        """Kind of the next token, "" at the end."""
        return self.tokens[self._position][0] if self._position < len(self.tokens) else ""

    @property
    def value(self) -> str:
        """Text of the next token, "" at the end."""
        return self.tokens[self._position][1] if self._position < len(self.tokens) else ""

    def take(self) -> str:
        """The next token's text; moves on."""
        value = self.value
        self._position += 1
        return value

    def sum(self, depth: int) -> Node:
        """term (+|- term)*"""
        if depth > MAX_DEPTH:
            raise UnreadableFormula(f"nested deeper than {MAX_DEPTH}")
        node = self.product(depth)
        while self.value in ("+", "-"):
            node = (self.take(), node, self.product(depth))
        return node

    def product(self, depth: int) -> Node:
        """Factors with * and /, or side by side."""
        if self.value in ("+", "-"):
            return ("negative", self.product(depth + 1)) if self.take() == "-" else self.product(depth + 1)
        node = self.power(depth)
        while True:
            if self.value in ("*", "/"):
                operator = self.take()
                negative = self.value == "-" and bool(self.take())
                factor = self.power(depth)
                node = (operator, node, ("negative", factor) if negative else factor)
            elif self._starts_factor():
                if self.kind == "number" and self.tokens[self._position - 1][0] == "number":
                    raise UnreadableFormula(f"{self.value!r} follows a number")
                node = ("*", node, self.power(depth))
            else:
                return node

    def _starts_factor(self) -> bool:
        return self.kind in ("number", "name", "function", "command") or self.value in ("(", "{", "√")

    def power(self, depth: int) -> Node:
        """A factor with its exponent and the marks after it."""
        if depth > MAX_DEPTH:
            raise UnreadableFormula(f"nested deeper than {MAX_DEPTH}")
        node = self._marks(self.factor(depth))
        if self.value == "^":
            self.take()
            negative = self.value == "-" and bool(self.take())
            exponent = self.power(depth + 1)
            node = self._marks(("^", node, ("negative", exponent) if negative else exponent))
        return node

    def _marks(self, node: Node) -> Node:
        while self.value in ("!", "%", "°"):
            node = (self.take(), node)
        return node

    def factor(self, depth: int) -> Node:
        """A number, a name, a group, |..| or a function with its argument."""
        kind = self.kind
        if kind == "number":
            return ("number", Fraction(self.take().replace(",", "").rstrip(".")))
        if kind == "name":
            name = self.take()
            return ("name", _plain(name))
        if kind == "function":
            return self._call(self.take(), depth)
        if kind == "command":
            return self._command(self.take()[1:], depth)
        if self.value in _CLOSING:
            return self.group(depth)
        mark = self.take()
        if mark == "|":
            node = ("abs", self.sum(depth + 1))
            self._expect("|")
            return node
        if mark == "√":
            return ("sqrt", self.power(depth + 1))
        raise UnreadableFormula(f"{mark!r} where a number or a name belongs")

    def group(self, depth: int) -> Node:
        """What a pair of brackets encloses."""
        closing = _CLOSING.get(self.take())
        if closing is None:
            raise UnreadableFormula(f"no bracket before {self.value!r}")
        node = self.sum(depth + 1)
        self._expect(closing)
        return node

    def _expect(self, mark: str) -> None:
        if self.value != mark:
            raise UnreadableFormula(f"{self.value!r} where {mark!r} belongs")
        self.take()

    def _argument(self, depth: int) -> Node:
        r"""An argument of a command: a group or, as TeX reads it, one digit or letter."""
        if self.value in _CLOSING:
            return self.group(depth)
        if self.kind == "number" and len(self.value) > 1:
            digit, rest = self.value[0], self.value[1:].rstrip(".")
            if not digit.isdecimal():
                raise UnreadableFormula(f"{self.value!r} where a command takes one digit")
            if rest:
                self.tokens[self._position] = ("number", rest)
            else:
                self.take()
            return ("number", Fraction(int(digit)))
        if self.kind == "name" and self.value[1:].isdigit():
            name = self.value[0]
            self.tokens[self._position] = ("number", self.value[1:])
            return ("name", name)
        return self.factor(depth + 1)

    def _command(self, name: str, depth: int) -> Node:
        if name == "sqrt":
            index = self.group(depth) if self.value == "[" else ("number", Fraction(2))
            return ("root", self._argument(depth), index)
        if name in ("frac", "binom"):
            return ("/" if name == "frac" else "binom", self._argument(depth), self._argument(depth))
        return self._call(name, depth)

    def _call(self, name: str, depth: int) -> Node:
        """sin x, sin^2(x), log_2 8: without brackets the argument is the product that follows, up to a function."""
        base: Node | None = None
        exponent: Node | None = None
        if name == "log" and self.value == "_":
            self.take()
            base = self._argument(depth)
        if self.value == "^":
            self.take()
            exponent = self._argument(depth)
        if self.value in _CLOSING:
            argument = self._marks(self.group(depth))
        else:
            argument = self.power(depth + 1)
            while self.kind in ("number", "name") or self.value == "\\frac":
                argument = ("*", argument, self.power(depth + 1))
        node: Node = (name, argument) if base is None else ("logbase", argument, base)
        if exponent == ("negative", ("number", Fraction(1))):
            return (f"arc{name}", argument)
        return node if exponent is None else ("^", node, exponent)


def sample_points(names: tuple[str, ...], *, positive: bool = False) -> list[Mapping[str, Fraction]]:
    """Points at which two formulas in `names` are compared: fixed, with no small integer relations.

    Of both signs; with `positive`, as many again have positive values only, where roots are real.
    """
    return [_point(names, row, _SIGNS) for row in range(8)] + [_point(names, row, (1,)) for row in range(8 * positive)]


_SIGNS = (1, 1, -1, 1, -1, -1, 1, -1)
_PRIMES = (7919, 6841, 5737, 4643, 3559, 2477, 1409, 383)


def _point(names: tuple[str, ...], row: int, signs: tuple[int, ...]) -> Mapping[str, Fraction]:
    return {
        name: Fraction(signs[(row + column) % len(signs)] * _PRIMES[(row + 3 * column) % 8], 2003 + 97 * column)
        for column, name in enumerate(names)
    }
