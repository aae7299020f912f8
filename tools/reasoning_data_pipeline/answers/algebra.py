"""Computer algebra at arm's length: questions go to worker processes, and whoever asks holds the watch.

sympy can run for hours on one line, and a timeout by signals works in the main thread only. Here the asking process
kills a worker whose time is over and gets the next one from a nursery that has sympy imported already (a fork,
milliseconds). Neither thread nor signal is involved, so a pool may be asked from any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

WORKER_SCRIPT = Path(__file__).with_name("algebra_worker.py")
START_LIMIT_S = 120.0
"""How long the first import of sympy may take, from a cold disk."""
PROCESS_ID = struct.Struct("i")

_LATEX = {
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "*": r"\cdot ", "⦃": r"\{", "⦄": r"\}", "→": r"\to ", "°": r"^\circ ", "%": r"\%",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "ω": r"\omega ",
}  # fmt: skip
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp)(?![a-z]{2})"
)


@dataclass
class _Worker:
    process_id: int
    connection: socket.socket


class AlgebraPool:
    """Worker processes that tell whether two formulas are equal.

    Args:
        workers: how many questions are worked on at a time.
        deadline_s: seconds one question may take.
        memory_mb: address space of one worker, MiB.
    """

    def __init__(self, *, workers: int = 1, deadline_s: float = 2.0, memory_mb: int = 2048) -> None:
        if workers < 1 or deadline_s <= 0:
            raise ValueError(f"workers={workers} and deadline_s={deadline_s} must both be positive")
        self.workers = workers
        self.deadline_s = deadline_s
        self._memory_bytes = memory_mb << 20
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)  # a place for a worker; it is filled when somebody asks
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def equal(self, predicted: str, gold: str, *, limit_s: float | None = None) -> bool | None:
        """Whether two normalised formulas are equal; None where sympy cannot tell or its time or memory was over.

        `limit_s` is the time for this question where it is not `deadline_s`, in seconds.
        """
        worker = self._idle.get()
        try:
            if worker is None:
                worker = self._new_worker()
            time_left = self.deadline_s if limit_s is None else limit_s
            answer = self._ask(worker, [to_latex(predicted), to_latex(gold)], time_left)
            if answer is None:
                _end(worker)
                worker = None
                return None
            return json.loads(answer)
        finally:
            self._idle.put(worker)

    def start(self) -> None:
        """Has a worker ready: the first one takes seconds, which no question's deadline has to pay for."""
        worker = self._idle.get()
        try:
            worker = worker or self._new_worker()
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends all workers and the nursery. The pool starts anew when it is asked again."""
        with self._lock:
            if self._nursery is not None and self._control is not None:
                os.killpg(self._nursery.pid, signal.SIGKILL)  # it leads a session of its own, with all its workers
                self._nursery.wait()
                self._control.close()
                self._nursery = self._control = None
        for _ in range(self.workers):
            worker = self._idle.get()
            if worker is not None:
                worker.connection.close()
            self._idle.put(None)

    def __enter__(self) -> AlgebraPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _ask(worker: _Worker, question: list[str], limit_s: float) -> bytes | None:
        """The worker's answer; None when its time is over or it has ended."""
        end = time.monotonic() + limit_s
        answer = b""
        try:
            worker.connection.sendall(json.dumps(question).encode() + b"\n")
            while not answer.endswith(b"\n"):
                worker.connection.settimeout(max(0.001, end - time.monotonic()))
                part = worker.connection.recv(64)
                if not part:
                    return None
                answer += part
        except OSError:  # the time is over (TimeoutError), or the worker was killed for its memory
            return None
        return answer

    def _new_worker(self) -> _Worker:
        with self._lock:
            control = self._control or self._start_nursery()
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(control, [b"+"], [theirs.fileno()])
                reply = control.recv(PROCESS_ID.size, socket.MSG_WAITALL)
            except TimeoutError as error:
                raise RuntimeError(f"{WORKER_SCRIPT.name} did not start within {START_LIMIT_S} s") from error
            except ConnectionError:
                reply = b""
            finally:
                theirs.close()
        if len(reply) < PROCESS_ID.size:
            ours.close()
            raise RuntimeError(f"{WORKER_SCRIPT.name} ended at its start; its message stands above")
        return _Worker(PROCESS_ID.unpack(reply)[0], ours)

    def _start_nursery(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        command = [sys.executable, str(WORKER_SCRIPT), str(theirs.fileno()), str(self._memory_bytes)]
        self._nursery = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        ours.settimeout(START_LIMIT_S)
        self._control = ours
        return ours


def _end(worker: _Worker) -> None:
    """Kills a worker at once, whatever it is doing. The nursery reaps it, so an ended worker may be gone already."""
    worker.connection.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.process_id, signal.SIGKILL)


def to_latex(text: str) -> str:
    """A normalised answer in the LaTeX that math-verify reads."""
    commands = _FUNCTION.sub(r"\\\1 ", text.replace("**", "^"))
    return "".join(_LATEX.get(character, character) for character in commands)
