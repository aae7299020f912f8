"""Small faults made by rule: each operator turns one expression of a function into another that is easily mistaken.

    comparison    < and <=, > and >=, == and !=, `is`, `in` and their negations stand for each other
    sign          + and -, * and / stand for each other; a minus sign is left out
    constant      a whole number is 1 more, another one twice as large (0.0 is 1.0), True is False
    dropped call  a call that stands alone is left out; x.clone(), sorted(x) and others that keep the type are x
    dropped flag  a keyword argument is left out; `not x` is x, `a and b` is a

Messages are spared: what is raised, logged or formatted; so are annotations, decorators, defaults, signs between paths
and texts, and `strict=`, which says no more than that lengths are equal.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
SIGNS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
}
KEEPING = ("sorted", "abs", "list", "tuple", "reversed", "set")  # f(x) that may become x
KEEPING_METHODS = (
    "abs",
    "clone",
    "contiguous",
    "copy",
    "detach",
    "double",
    "eval",
    "exp",
    "float",
    "long",
    "lower",
    "neg",
    "sigmoid",
    "sort",
    "square",
    "strip",
    "train",
)  # x.f() that may become x
PATHS = {"folder", "path", "root", "source", "target", "fresh", "final", "parent", "output", "dir"}  # words of names
MESSAGES = (ast.Raise, ast.JoinedStr, ast.Assert)
LOGGERS = ("logger", "logging", "warnings")


@dataclass(frozen=True)
class Edit:
    """A fault: the operator `kind`, the function that it is in, bytes [start, end) of the file, what they become."""

    kind: str
    function: str
    start: int
    end: int
    text: bytes


def edits(source: bytes) -> list[Edit]:
    """All faults that the operators make of a file, in its order."""
    return sorted(_Finder(source).edits, key=lambda edit: (edit.start, edit.end, edit.text))


def draw(source: bytes, number: int, seed: str) -> list[Edit]:
    """Up to `number` of the faults of a file, one per line, as many kinds as there are; `seed` alone decides."""
    found = edits(source)
    random.Random(seed).shuffle(found)
    drawn: list[Edit] = []
    while found and len(drawn) < number:
        few = min(sum(one.kind == edit.kind for one in drawn) for edit in found)
        edit = next(edit for edit in found if sum(one.kind == edit.kind for one in drawn) == few)
        drawn.append(edit)
        line = _line_of(source, edit)
        found = [other for other in found if _line_of(source, other) != line]
    return drawn


def as_texts(source: bytes, edit: Edit) -> tuple[str, str]:
    """Whole lines before and after a fault, with as many lines in front as make the first text unique in the file."""
    start = source.rfind(b"\n", 0, edit.start) + 1
    end = source.find(b"\n", edit.end)
    while source.count(source[start:end].lstrip()) > 1:
        start = source.rfind(b"\n", 0, start - 1) + 1
    start += len(source[start:end]) - len(source[start:end].lstrip())
    return source[start:end].decode(), (source[start : edit.start] + edit.text + source[edit.end : end]).decode()


def _line_of(source: bytes, edit: Edit) -> int:
    return source.count(b"\n", 0, edit.start)


class _Finder(ast.NodeVisitor):
    """Walks the functions of a file and notes edits."""

    def __init__(self, source: bytes) -> None:
        self.source, self.edits = source, list[Edit]()
        self.inside: list[str] = []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.visit(ast.parse(source))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.inside.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.inside.append(node.name)
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                self.visit(statement)
        self.inside.pop()

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, MESSAGES) or _is_logging(node) or isinstance(node, ast.keyword) and node.arg == "strict":
            return
        if self.inside:
            for kind, start, end, text in self._faults(node):
                self.edits.append(Edit(kind, ".".join(self.inside), start, end, text))
        super().visit(node)

    def _faults(self, node: ast.AST) -> Iterator[tuple[str, int, int, bytes]]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from self._swapped("comparison", node.left, node.comparators[0], COMPARISONS.get(type(node.ops[0])))
        elif isinstance(node, ast.BinOp) and not any(map(_is_joined, (node.left, node.right))):
            yield from self._swapped("sign", node.left, node.right, SIGNS.get(type(node.op)))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            kind = "sign" if isinstance(node.op, ast.USub) else "dropped flag"
            yield kind, *self._span(node), self._text(node.operand)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            yield "constant", *self._span(node), _other(node.value)
        elif isinstance(node, ast.BoolOp):
            yield "dropped flag", *self._span(node), self._text(node.values[0])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield "dropped call", *self._span(node), b"pass"
        elif isinstance(node, ast.Call):
            yield from self._dropped(node)

    def _dropped(self, node: ast.Call) -> Iterator[tuple[str, int, int, bytes]]:
        function, words = node.func, len(node.args) + len(node.keywords)
        if isinstance(function, ast.Attribute) and function.attr in KEEPING_METHODS and not words:
            yield "dropped call", *self._span(node), self._text(function.value)
        if isinstance(function, ast.Name) and function.id in KEEPING and words == len(node.args) == 1:
            yield "dropped call", *self._span(node), self._text(node.args[0])
        for index, keyword in enumerate(node.keywords):
            before = [*node.args, *(other.value for other in node.keywords[:index])]
            if keyword.arg not in (None, "strict") and before:
                yield "dropped flag", self._span(before[-1])[1], self._span(keyword)[1], b""

    def _swapped(
        self, kind: str, left: ast.expr, right: ast.expr, words: tuple[str, str] | None
    ) -> Iterator[tuple[str, int, int, bytes]]:
        start, end = self._span(left)[1], self._span(right)[0]
        between = self.source[start:end]
        if words is not None and between.strip(b" ()\n") == words[0].encode():
            yield kind, start, end, between.replace(words[0].encode(), words[1].encode())

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None  # of a parsed file
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> bytes:
        start, end = self._span(node)
        return self.source[start:end]


def _is_logging(node: ast.AST) -> bool:
    """Whether it is a call of a logger."""
    node = node.value if isinstance(node, ast.Expr) else node
    function = node.func if isinstance(node, ast.Call) else None
    owner = function.value if isinstance(function, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in LOGGERS


def _is_joined(node: ast.expr) -> bool:
    """Whether + and / join it with others: a text, a list, a path."""
    name = getattr(node, "id", None) or getattr(node, "attr", "")
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    return (
        is_text
        or isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple))
        or not PATHS.isdisjoint(name.lower().split("_"))
    )


def _other(value: bool | int | float) -> bytes:
    """Another constant of the same type."""
    if isinstance(value, bool):
        return repr(not value).encode()
    return repr(value + 1 if isinstance(value, int) else value * 2 or 1.0).encode()
