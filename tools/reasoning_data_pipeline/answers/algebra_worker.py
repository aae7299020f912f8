"""The processes in which computer algebra runs: a nursery that has imported sympy forks workers of bounded memory.

Started by `algebra.AlgebraPool` as `python algebra_worker.py FD BYTES`, where FD is a Unix socket. For every message
with a socket attached the nursery forks a worker that serves that socket, and answers its process id. A worker reads
lines `[predicted, gold]` of JSON and answers `true`, `false` or `null`. It keeps no time: whoever asks kills it when
its time is over. When the socket FD closes, all end.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
import tokenize
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.sympify import SympifyError
from sympy.logic.boolalg import Boolean

PROCESS_ID = struct.Struct("i")
NUMERIC_TOLERANCE = 1e-9
ROUNDED_TOLERANCE = 1e-3
_UNABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError, RecursionError,
    RuntimeError, SympifyError, TypeError, ValueError, tokenize.TokenError,
)  # fmt: skip


_Tracing = Callable[[FrameType, str, Any], Any]
_GRAMMAR = f"{os.sep}antlr4{os.sep}"
"""Where most calls of a reading are made; it swallows no such error, so whoever called it sees it."""


class Shortage:
    """Notices a MemoryError or RecursionError even where a library swallows it; a context manager.

    math-verify takes whatever goes wrong in a comparison for "not equal", and an answer must not be called wrong
    because memory ran out. Only calls and exceptions are traced, not lines.

    Attributes:
        happened: whether there was one.
    """

    def __init__(self) -> None:
        self.happened = False

    def __enter__(self) -> Shortage:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        self.happened |= sys.gettrace() is None  # Python ends the tracing where there is no room left for it
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> _Tracing | None:
        if _GRAMMAR in frame.f_code.co_filename:
            return None
        frame.f_trace_lines = False
        return self._notice

    def _notice(self, frame: FrameType, event: str, argument: Any) -> _Tracing:
        if event == "exception" and issubclass(argument[0], (MemoryError, RecursionError)):
            self.happened = True
        return self._notice


def equal(predicted: str, gold: str) -> bool | None:
    """Whether two LaTeX formulas are equal; None where one is not understood or the question is beyond sympy.

    Also None where they look different only after memory, or the depth of the stack, was not enough.
    """
    with Shortage() as shortage:
        agree = _equal(predicted, gold)
    return None if shortage.happened and not agree else agree


def _equal(predicted: str, gold: str) -> bool | None:
    try:
        first, second = _read(predicted), _read(gold)
        if first is None or second is None:
            return None
        if _is_constant(first) and _is_constant(second):
            return _equal_constants(first, second, rounded="." in predicted or "." in gold)
        if isinstance(first, Boolean) and isinstance(second, Boolean) and first.as_set() == second.as_set():
            return True
        return verify(second, first, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True)
    except _UNABLE:  # sympy raises many kinds for formulas it cannot handle; all mean that it does not know
        return None


def _read(formula: str) -> sympy.Basic | None:
    found = parse(f"${formula}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found and isinstance(found[0], sympy.Basic) else None


def _is_constant(formula: sympy.Basic) -> bool:
    return isinstance(formula, sympy.Expr) and not formula.free_symbols


def _equal_constants(first: sympy.Expr, second: sympy.Expr, *, rounded: bool) -> bool | None:
    """By value: math-verify takes a product too large for a float for any number."""
    left, right = _number(first), _number(second)
    if left is None or right is None:
        return None
    tolerance = ROUNDED_TOLERANCE if rounded else NUMERIC_TOLERANCE
    return bool(abs(left - right) <= tolerance * sympy.Max(abs(left), abs(right)))


def _number(constant: sympy.Expr) -> sympy.Expr | None:
    """Its value; limits have one only after they are worked out."""
    value = constant.evalf()
    if not value.is_number:
        value = constant.doit().evalf()
    return value if value.is_number and value.is_finite else None


def serve(connection: socket.socket, memory_bytes: int) -> None:
    """Answers questions line by line until the connection ends."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with connection.makefile("rw") as lines:
        for line in lines:
            predicted, gold = json.loads(line)
            lines.write(json.dumps(equal(predicted, gold)) + "\n")
            lines.flush()


def raise_workers(control: socket.socket, memory_bytes: int) -> None:
    """Forks one worker for each socket that arrives, until the pool is gone; then ends all of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os.killpg(0, signal.SIGKILL)  # a worker in the middle of a sum would not notice that nobody waits
        process_id = os.fork()
        if process_id == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(socket.socket(fileno=descriptors[0]), memory_bytes)
            os._exit(0)
        os.close(descriptors[0])
        control.sendall(PROCESS_ID.pack(process_id))


def main(arguments: Iterable[str]) -> None:
    """Serves the pool: the arguments are the file descriptor of its socket and the bytes that a worker may use."""
    descriptor, memory_bytes = (int(argument) for argument in arguments)
    logging.disable(logging.CRITICAL)
    equal("1", "2")  # what sympy builds at its first use, all workers inherit
    raise_workers(socket.socket(fileno=descriptor), memory_bytes)


if __name__ == "__main__":
    main(sys.argv[1:])
