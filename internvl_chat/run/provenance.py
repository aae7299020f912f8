"""How a run came about: command, commit, versions, machine, and the wall time of its stages; what a report shows.

provenance.json in the output folder has an entry for each start of the run, written anew as each stage ends, so that it
also tells of a start that was killed. Values of flags that end in `token` are left out of the command.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from internvl_chat.records.durable import write_atomically
from internvl_chat.run.entry import versions

logger = logging.getLogger(__name__)

PROVENANCE_NAME = "provenance.json"
ROOT = Path(__file__).parents[2]
UNKNOWN = "unknown"


class RunRecord:
    """Writes the entry of this start, on the first rank."""

    def __init__(self, folder: Path, *, step: int, processes: int, is_writer: bool) -> None:
        """Take the output folder, the step that this start begins behind, and how many processes the job has."""
        self.path, self.is_writer = folder / PROVENANCE_NAME, is_writer
        self.earlier = read_provenance(self.path) if step and is_writer else []
        self.entry: dict[str, Any] = {"after_step": step, "processes": processes, "seconds": {}}
        if is_writer:
            self.entry |= describe_start()
            self.write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the wall time of a stage, in seconds; of one that raises, too."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.entry["seconds"][name] = round(time.monotonic() - begin, 1)
            if self.is_writer:
                self._write_or_warn()

    def _write_or_warn(self) -> None:
        """Write all starts; a disk that is full must not hide what a stage has raised, nor end a training."""
        try:
            self.write()
        except OSError as error:
            logger.warning("%s: not written, %s; a report will not know how long the stages took", self.path, error)

    def write(self) -> None:
        """Write all starts; OSError where the folder cannot be written to."""
        text = json.dumps({"starts": [*self.earlier, self.entry]}, indent=2, ensure_ascii=False)
        write_atomically(self.path, [text.encode(), b"\n"])


def read_provenance(path: Path) -> list[dict[str, Any]]:
    """The starts that are written down; none of a broken file, which is warned of and must not stop a training."""
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: left out, it does not tell of the earlier starts of this run: %s", path, error)
        return []


def describe_start() -> dict[str, Any]:
    """When, by what command, of which commit and versions, on which machine."""
    return {
        "began": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": told_command(sys.orig_argv),
        "commit": commit_of(ROOT),
        "versions": list(versions()),
        "machine": machine(),
    }


def told_command(argv: Sequence[str]) -> str:
    """A command line as one would type it, without the values of flags that end in `token`."""
    words, hides = [], False
    for word in argv:
        name, is_joined, _ = word.partition("=")
        is_secret = name.startswith("--") and name.endswith("token")
        words.append("..." if hides else f"{name}=..." if is_secret and is_joined else word)
        hides = is_secret and not is_joined
    return shlex.join(words)


def commit_of(root: Path) -> str:
    """The commit of the clone that holds this package, as git's files name it; `unknown` where there is no clone."""
    git = root / ".git"
    try:
        if git.is_file():  # of a worktree or a submodule
            git = root / git.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
        kind, _, ref = (git / "HEAD").read_text(encoding="utf-8").strip().partition(": ")
        if kind != "ref":
            return kind
        if (git / "commondir").is_file():
            git = git / (git / "commondir").read_text(encoding="utf-8").strip()
        if (git / ref).is_file():
            return (git / ref).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
    except OSError:
        return UNKNOWN
    return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), UNKNOWN)


def machine() -> str:
    """Processor, memory and GPUs of this node, in words; without its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    return "; ".join([cpu, *gpus()])


def gpus() -> list[str]:
    """Names of the GPUs that this process sees."""
    import torch  # a page that reads what was recorded has no use for it

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
