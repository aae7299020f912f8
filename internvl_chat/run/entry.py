"""The door of every command: a user's mistake ends in its own words and exit code 2, without a traceback.

    if __name__ == "__main__":
        enter(main)

What a library or this code says of a mistake (`ValueError`, `OSError`, a package that is not there) is printed in at
most three lines; `--traceback True` or MPO_TRACEBACK=1 shows where it was raised. What a run or a check finds on its
way (`Finding`, `FloatingPointError`) is exit code 1. `--version` prints what an issue report needs. What libraries
print that means nothing here and reads as a fault is left out, by name. Imports nothing
heavy: `--help` of a tool that needs no torch starts without it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from internvl_chat.run.process import find_process, leave_ranks

MISTAKE, FAILURE, UNREAD = 2, 1, 141  # exit codes; the last is that of a process which SIGPIPE has ended
MOST_LINES = 3
OTHER_RANKS_WAIT_S = 3.0  # rank 0 says what all ranks have found, and its end ends them
PACKAGES = (
    "internvl-mpo",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "deepspeed",
    "peft",
    "timm",
    "lmdeploy",
    "vllm",
)
NOISE = {
    "transformers.trainer_utils": ("The tokenizer has new PAD/BOS/EOS tokens",),
    "DeepSpeed": ("Setting accelerator to CPU",),
    "accelerate.accelerator": ("The used dataset had no length", "[RANK 0] Gradient accumulation steps mismatch"),
}
"""Logger -> starts of messages of a library that are left out; all others of these libraries are shown."""

# What other trainers call a flag of ours.
ELSEWHERE = {
    "--batch-size": "--per-device-train-batch-size",
    "--data": "--meta-path",
    "--data-path": "--meta-path",
    "--dataset": "--meta-path",
    "--epochs": "--num-train-epochs",
    "--lora-r": "--use-llm-lora",
    "--lora-rank": "--use-llm-lora",
    "--lr": "--learning-rate",
    "--max-length": "--max-seq-length",
    "--model": "--model-name-or-path",
}


class Finding(RuntimeError):
    """A check or a run found something that is no mistake of the command; its words are for the user, exit code 1."""


@dataclass(frozen=True)
class Without:
    """A filter of a logger: leaves out messages that begin in one of some ways. Equal ones are added once."""

    starts: tuple[str, ...]

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is shown."""
        return not record.getMessage().startswith(self.starts)


class Parser(argparse.ArgumentParser):
    """An argument parser that says a mistake in one line, with the nearest flag, and names `--help`, not all flags."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; an unknown flag is refused with the flag that was probably meant."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(unknown_flags(unknown, [flag for action in self._actions for flag in action.option_strings]))
        return found

    def error(self, message: str) -> NoReturn:
        """Exit code 2 and one line."""
        self.exit(MISTAKE, f"{self.prog}: {message}; --help explains the flags\n")


def at_least(least: int) -> Callable[[str], int]:
    """Type of a flag that takes whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} must be at least {least}")
        return value

    return whole_number


def unknown_flags(unknown: Sequence[str], known: Sequence[str]) -> str:
    """Words on flags that nobody has, with the nearest that somebody has."""
    flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    spelled = nearest_flag(flags[0] if flags else f"--{unknown[0].partition('=')[0]}", known)
    meant = f"; did you mean {spelled}?" if spelled else ""
    return f"unknown flag {', '.join(flags)}{meant}" if flags else f"unexpected words {' '.join(unknown)}{meant}"


def nearest_flag(flag: str, known: Sequence[str]) -> str | None:
    """The flag that was probably meant: one that begins with all that was typed, else one that differs by a slip."""
    plain = {name.replace("_", "-"): name for name in reversed(known)}
    typed = flag.replace("_", "-")
    if ELSEWHERE.get(typed) in plain:
        return plain[ELSEWHERE[typed]]
    begun = [name for name in plain if name.startswith(f"{typed}-")]
    near = difflib.get_close_matches(typed, begun or plain, n=1, cutoff=0.0 if begun else 0.6)
    return plain[near[0]] if near else None


def enter(main: Callable[[], object]) -> None:
    """Run a command's `main` as the program: SystemExit with the code that it returns, or that of what it raises."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.writelines(f"{line}\n" for line in versions())
        return
    wants_traceback = _take_traceback_flag(sys.argv)
    _silence_noise()
    try:
        code = _code_of(main, program(), wants_traceback=wants_traceback)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            leave_ranks(ended.code)
        raise
    leave_ranks(code)
    if code:
        raise SystemExit(code)


def _code_of(main: Callable[[], object], program: str, *, wants_traceback: bool) -> int:
    """The exit code of a `main`, after its error is said."""
    try:
        code = main()
    except BrokenPipeError:
        # `| head` has seen enough: no error to tell of, but what was to be done need not be done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        return _say(f"{program}: stopped", 130)
    except (Finding, FloatingPointError) as error:
        return _ended(program, error, FAILURE, wants_traceback)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return _ended(program, error, MISTAKE, wants_traceback)
    return code if isinstance(code, int) else 0


def versions() -> Iterator[str]:
    """Lines with the versions of what matters; packages that are not installed are left out."""
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def program() -> str:
    """Name of the command as it was typed: `mpo` and its word, the module behind `-m`, else the script."""
    typed = os.path.basename(sys.argv[0])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None and typed.split(" ")[0] != "mpo" else typed


def _silence_noise() -> None:
    """Leave out NOISE and, where nobody looks on, bars of loading, which tear lines; before libraries are imported."""
    for name, starts in NOISE.items():
        logging.getLogger(name).addFilter(Without(starts))
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by transformers, too


def _take_traceback_flag(words: list[str]) -> bool:
    """Whether tracebacks are wanted; takes `--traceback [True|False]` out of the words, for every command alike."""
    wanted = os.environ.get("MPO_TRACEBACK", "0") not in ("", "0", "False", "false")
    if "--traceback" in words:
        at = words.index("--traceback")
        value = words[at + 1] if at + 1 < len(words) and words[at + 1].lower() in ("true", "false") else None
        del words[at : at + (1 if value is None else 2)]
        wanted = value is None or value.lower() == "true"
    return wanted


def _ended(program: str, error: Exception, code: int, wants_traceback: bool) -> int:
    """Say an error: as a traceback where one is wanted, else in its own words."""
    if wants_traceback:
        traceback.print_exception(error)
        return code
    if find_process().rank:
        time.sleep(OTHER_RANKS_WAIT_S)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return _say(f"{program}: " + "\n".join(lines[:MOST_LINES]), code)


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return code
