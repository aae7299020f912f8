"""Runs tests on a copy of the tree in which one file has a fault: the checkout itself is never touched.

Every run is a process of its own, forked from a server that has imported torch and transformers, but nothing of ours:
so it costs what its tests cost. It says whether the file with the fault is the one that the tests imported.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from compileall import compile_dir
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "pytest",
    "torch",
    "scipy.stats",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "timm.layers",
    "peft",
    "trl.trainer.callbacks",
    "trl.models.utils",
)
PACKAGES = ("internvl_chat", "tools")
GRACE = 10.0  # seconds for a process that said what it found to clean up after itself
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not integration and not gpu")


@dataclass
class Finding:
    """What tests said of a tree.

    Attributes:
        code: pytest's: 0 all passed, 1 some failed, 2 a file could not be collected; None where time was up.
        failed: the first test that failed, or the first file that could not be collected.
        imported: whether the process had imported the file that was looked for.
        output: what pytest printed.
        seconds: that it took.
    """

    code: int | None
    failed: str | None = None
    imported: bool = False
    output: str = ""
    seconds: float = 0.0


class Recorder:
    """A plugin of pytest that remembers what failed."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test, its setup or teardown is done."""
        self.failed += [report.nodeid] if report.failed else []

    def pytest_collectreport(self, report: Any) -> None:
        """A file was read."""
        self.failed += [report.nodeid] if report.failed else []


def copy_tree(target: Path) -> Path:
    """Copy what git knows of the checkout, and what it would add, to a new folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    for package in PACKAGES:  # checked by content: a file may change twice within the second that its time tells
        compile_dir(target / package, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return target


class Bench:
    """A copy of the tree, and processes that run tests in it one after the other."""

    def __init__(self, tree: Path) -> None:
        """Take a copy made by `copy_tree`."""
        self.tree = tree
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))

    def run(self, tests: Sequence[str], file: str, *, limit: float) -> Finding:
        """Run tests in the tree as it is.

        Args:
            tests: files, or single tests, as pytest takes them; the first failure ends the run.
            file: that the tests should import, from the root of the tree.
            limit: seconds after which the run and all that it started are killed.
        """
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=run_tests, args=(self.tree, tuple(tests), file, theirs))
        started = time.monotonic()
        process.start()
        theirs.close()
        finding = Finding(None)
        try:
            if ours.poll(limit):
                finding = ours.recv()
        except EOFError:  # it died, which the tests would have shown too
            finding = Finding(1, "the process died", True)
        finally:
            _end(process, said_all=finding.code is not None)
        finding.seconds = round(time.monotonic() - started, 2)
        return finding

    def run_with(self, file: str, old: str, new: str, tests: Sequence[str], *, limit: float) -> Finding:
        """Run tests while `file` has `new` where it had `old`; see `replaced`."""
        path = self.tree / file
        before = path.read_text(encoding="utf-8")
        path.write_text(replaced(before, old, new), encoding="utf-8")
        try:
            return self.run(tests, file, limit=limit)
        finally:
            path.write_text(before, encoding="utf-8")


def replaced(text: str, old: str, new: str) -> str:
    """The text with `new` for `old`; ValueError unless `old` is there once, and another."""
    if text.count(old) != 1 or old == new:
        raise ValueError(f"there {text.count(old)} times, not once: {old!r}")
    return text.replace(old, new)


def run_tests(tree: Path, tests: Sequence[str], file: str, answer: Connection) -> None:
    """In a process of its own: run tests, and send a Finding."""
    os.setsid()  # so that what tests start ends with them
    os.chdir(tree)
    sys.dont_write_bytecode = True  # what is compiled of a mutant does not outlive it
    sys.path.insert(0, str(tree))
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    import pytest

    recorder, printed = Recorder(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = int(pytest.main([*OPTIONS, *tests], plugins=[recorder]))
    places = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    answer.send(Finding(code, next(iter(recorder.failed), None), str(tree / file) in places, printed.getvalue()))


def _end(process: Any, *, said_all: bool) -> None:
    """End a process and all that it started, by force where it has not ended by itself."""
    process.join(GRACE if said_all else 0)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # not a group of its own yet, or gone
        process.kill()
    process.join()
