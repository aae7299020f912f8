"""One case in a process of its own: what it raises, writes, starts and connects to, its time and its memory.

The process is forked from one that has imported everything, so its time is that of the work alone. An audit hook sees
what Python code does to files, processes and sockets; what is not allowed is noted and stopped.
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from .case import Case, base_row
from .entries import ENTRIES, Account, rows_of, watch_rows

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "internvl_chat"), str(ROOT / "tools"))
CHECKPOINTS = ROOT / "tests" / "golden" / "ckpt"
MAX_SECONDS = 10.0
MAX_MEMORY_MB = 1024
MAX_MESSAGE_CHARS = 4000
DATA_LIMIT = 8 << 30  # bytes; a case that would take more is stopped before it hurts the machine
NAMED = (ValueError, OSError, FloatingPointError, RuntimeError)  # RecordError and EngineError among them
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate"}
STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"}


@dataclass
class Report:
    """How a case ended.

    Attributes:
        error: name of the exception, "" without one.
        message: what it says.
        is_ours: it was raised by this package, not by what lies below.
        trace: its last frames.
        account: what was done with the rows; None where there was an error.
        breaches: forbidden things that were tried.
        seconds: of processor time.
        wall_seconds: of the clock, which a busy machine stretches.
        memory_mb: peak of the process.
        died: by which signal or for which reason the process ended early; "" where it did not.
    """

    error: str = ""
    message: str = ""
    is_ours: bool = True
    trace: str = ""
    account: Account | None = None
    breaches: list[str] = field(default_factory=list)
    seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_mb: float = 0.0
    died: str = ""


def make_folder(folder: Path, entry: str) -> None:
    """The clean folder of a run: a checkpoint, three rows with images, their meta.json, and a folder outside."""
    for name in ("ckpt", "data/images", "outside", "out", "tmp"):
        (folder / name).mkdir(parents=True)
    source = CHECKPOINTS / ("tiny-internlm2" if entry == "train_internlm2" else "tiny-qwen2")
    for path in source.iterdir():
        shutil.copyfile(path, folder / "ckpt" / path.name)
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    for name in ("data/images/clean.png", "data/images/victim.png", "outside/secret.png"):
        Image.fromarray(noise).save(folder / name)
    rows = b"".join(json.dumps(base_row(line)).encode() + b"\n" for line in (1, 2, 3))
    (folder / "data" / "rows.jsonl").write_bytes(rows)
    meta = {"rows": {"root": "images", "annotation": "rows.jsonl"}}
    (folder / "data" / "meta.json").write_text(json.dumps(meta))


def snapshot(folder: Path) -> dict[str, str]:
    """Every file of a run's folder but its outputs, by content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.partition("/")[0] not in ("out", "tmp", "report.json", "printed.txt"):
            is_file = path.is_file() and not path.is_symlink()
            found[name] = xxhash.xxh3_64_hexdigest(path.read_bytes()) if is_file else str(path.lstat().st_mode)
    return found


def run(entry: str, case: Case | None, folder: Path, limit_s: float) -> Report:
    """Run a case, or a clean input, in a forked process."""
    make_folder(folder, entry)
    if case is not None:
        case.place(folder)
    before = snapshot(folder)
    start = time.monotonic()
    process = os.fork()
    if not process:
        try:
            _child(entry, folder)
        finally:
            os._exit(1)  # never on into the code of the parent
    status, usage = _wait(process, start + limit_s)
    report = _read_report(folder)
    report.seconds, report.memory_mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    report.wall_seconds = time.monotonic() - start
    if status:
        report.died = f"it ended with status {os.waitstatus_to_exitcode(status)} after {report.wall_seconds:.1f} s"
    if (after := snapshot(folder)) != before:
        report.breaches.append(f"files changed: {sorted({name for name, _ in after.items() ^ before.items()})}")
    return report


def _wait(process: int, end: float) -> tuple[int, resource.struct_rusage]:
    """Status and usage of a process; one that runs past its end is killed."""
    descriptor = os.pidfd_open(process)
    if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
        os.kill(process, signal.SIGKILL)
    os.close(descriptor)
    _, status, usage = os.wait4(process, 0)
    return status, usage


def _read_report(folder: Path) -> Report:
    path = folder / "report.json"
    if not path.exists():
        return Report(died="no report")
    fields = json.loads(path.read_text(encoding="utf-8"))
    account = fields.pop("account")
    if account:
        account["skipped"] = {int(line): reason for line, reason in account["skipped"].items()}
    return Report(**fields, account=Account(**account) if account else None)


def _child(entry: str, folder: Path) -> None:
    """Run the entry point, write the report, end the process."""
    printed = os.open(folder / "printed.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(printed, stream)
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, DATA_LIMIT))
    os.environ["TMPDIR"] = str(folder / "tmp")
    os.chdir(folder / "tmp")
    report = Report()
    _forbid(folder, report.breaches)
    watch_rows()
    try:
        ENTRIES[entry].run(folder)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, is what we want to know
        _describe(error, folder, report)
    sys.stdout.flush()
    if not report.error:
        told = (folder / "printed.txt").read_text(encoding="utf-8", errors="replace")
        report.account = ENTRIES[entry].account(folder, told)
        report.account.rows = rows_of(folder)
        if report.account.refusal:
            report.error, report.message, report.account = "refused", report.account.refusal, None
    (folder / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")
    os._exit(0)


def _describe(error: BaseException, folder: Path, report: Report) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    report.error, report.message = type(error).__name__, str(error)
    report.is_ours = isinstance(error, NAMED) and frames[-1].filename.startswith(OURS)
    if isinstance(error, SystemExit):  # argparse has said what is wrong
        report.is_ours = error.code == 2
        report.message = (folder / "printed.txt").read_text(encoding="utf-8", errors="replace")[-MAX_MESSAGE_CHARS:]
    report.trace = "".join(traceback.format_list(frames[-3:]))


def _forbid(folder: Path, breaches: list[str]) -> None:
    """Note and stop what no input may cause: writing elsewhere, starting programs, connecting, running its code."""
    inside = tuple(f"{folder}/{name}" for name in ("out", "tmp", "report.json", "printed.txt"))
    allowed = (*inside, os.environ["XDG_CACHE_HOME"], os.devnull, "/dev/shm")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if problem := _breach(event, arguments, allowed, str(folder)):
            breaches.append(problem)
            raise PermissionError(problem)

    sys.addaudithook(hook)


def _breach(event: str, arguments: tuple[Any, ...], allowed: Sequence[str], folder: str) -> str:
    """What is wrong with an event of the audit hook; "" where nothing is."""
    if event == "open":
        path, mode, flags = arguments
        is_number = isinstance(flags, int)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if is_number else {*(mode or "")} & {*"wax+"}
        return f"writes {path}" if writes and not _is_allowed(path, allowed) else ""
    paths = [path for path in arguments if isinstance(path, str | bytes | Path)]
    if event in WRITES and not all(_is_allowed(path, allowed) for path in paths):
        return f"{event} {arguments}"
    if event in STARTS and "algebra_worker.py" not in str(arguments):
        return f"{event} {arguments}"
    if event == "socket.connect" and not isinstance(arguments[1], str | bytes) or event == "socket.getaddrinfo":
        return f"{event} {arguments[-5:]}"
    if event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(folder):
        return f"runs {arguments[0].co_filename}"
    return ""


def _is_allowed(path: object, allowed: Sequence[str]) -> bool:
    if isinstance(path, int):
        return True
    return os.path.abspath(os.fsdecode(path)).startswith(tuple(allowed))


def faults(case: Case, report: Report, clean: Report) -> list[str]:
    """Which promises a case broke."""
    found = [*report.breaches]
    if report.died:
        found.append(report.died)
    if report.seconds > MAX_SECONDS:
        found.append(f"took {report.seconds:.1f} s")
    if report.memory_mb - clean.memory_mb > MAX_MEMORY_MB:
        found.append(f"took {report.memory_mb - clean.memory_mb:.0f} MB more than a clean input")
    if report.error:
        return found + _error_faults(case, report)
    return found + (_account_faults(case, report.account, clean.account) if report.account else [])


def _error_faults(case: Case, report: Report) -> list[str]:
    found = []
    if case.outcome not in ("refused", "emptied"):
        found.append(f"should be {case.outcome}, not end in an error")
    if not report.is_ours:
        found.append("raised below our code, or of no named kind")
    return found + _message_faults(case, report.message)


def _message_faults(case: Case, message: str) -> list[str]:
    found = []
    if not re.search(case.says, message, re.DOTALL):
        found.append(f"the message has not {case.says!r}")
    if len(message) > MAX_MESSAGE_CHARS:
        found.append(f"a message of {len(message)} characters")
    if any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t" for character in message):
        found.append("control characters in the message")
    return found


def _account_faults(case: Case, account: Account, clean: Account | None) -> list[str]:
    """Each row is used once or stands in the ledger; the victim as it should."""
    found = [f"belongs to no row: {text!r}" for text in account.foreign]
    if sorted([*account.used, *account.skipped]) != account.rows:
        found.append(f"of {account.rows} used {account.used}, skipped {account.skipped}")
    if case.outcome == "emptied":
        return found + ([f"used {account.used}"] if account.used or not account.skipped else [])
    if case.outcome == "refused":
        return [*found, f"not refused: {account.used} used, {account.skipped} skipped"]
    if case.outcome == "used" and account.skipped:
        found.append(f"skipped: {account.skipped}")
    if case.outcome == "skipped":
        if [*account.skipped] != [2]:
            found.append(f"skipped {account.skipped}, not line 2")
        found += _message_faults(case, account.skipped.get(2, ""))
    if case.kind == "text" and case.outcome == "used" and clean and account.special_tokens != clean.special_tokens:
        found.append(f"text became special tokens: {account.special_tokens} instead of {clean.special_tokens}")
    return found


def warm_up(entry: str, folder: Path) -> None:
    """Run the clean input in this process: what is imported at the first use, later ones find imported."""
    make_folder(folder, entry)
    ENTRIES[entry].run(folder)
    shutil.rmtree(folder)


def freeze() -> None:
    """Before forking: what is in memory is not looked at by the garbage collectors of the children."""
    gc.collect()
    gc.freeze()
