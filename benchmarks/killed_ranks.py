"""What the benchmarks that kill sampling share: ranks of the correctness pipeline, an undisturbed run to equal, flags.

The pipelines are forked from this process, to save them the imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from machine import RESULTS

from tools.reasoning_data_pipeline import mmpr_data_pipeline_correctness

PROMPTS = 60
FORK = multiprocessing.get_context("fork")


@dataclass
class Kills(ABC):
    """Runs of which something is killed, each checked against the undisturbed one at its end.

    Attributes:
        folder: scratch space with the prompt file.
        chance: decides what is killed, and when.
        expected: merged file and rejects of the undisturbed run.
        counts: kills, starts, runs, and whatever else a benchmark counts.
    """

    folder: Path
    chance: random.Random
    expected: tuple[bytes, bytes] = (b"", b"")
    counts: Counter[str] = field(default_factory=Counter)

    @property
    @abstractmethod
    def spent(self) -> int:
        """Kills so far."""

    @abstractmethod
    def undisturbed(self) -> None:
        """The run that all others are measured by; ValueError if it fails."""

    @abstractmethod
    def run(self, wanted: int) -> None:
        """One sampling run to its end, with some of the kills that are left of `wanted`."""

    def start_ranks(self, out_dir: Path, world_size: int, flags: Sequence[str]) -> list[BaseProcess]:
        """Start all ranks of one launch."""
        flags = [*flags, "--prompt-path", str(self.folder / "prompts.jsonl"), "--out-dir", str(out_dir)]
        ranks = []
        for rank in range(world_size):
            place = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "TORCHELASTIC_RUN_ID": "kills"}
            ranks.append(FORK.Process(target=run_pipeline, args=(mmpr_data_pipeline_correctness, flags, place)))
            ranks[-1].start()
        return ranks

    def outcome(self, out_dir: Path) -> tuple[bytes, bytes] | None:
        """Merged file and rejects of a complete run, None of another."""
        for output in out_dir.rglob("prompts.jsonl"):
            return output.read_bytes(), (output.with_suffix(".parts") / "rejects.jsonl").read_bytes()
        return None

    def check(self, out_dir: Path) -> None:
        """Count a run that ended; ValueError if its answers differ from the undisturbed one's."""
        if self.outcome(out_dir) != self.expected:
            raise ValueError(f"{out_dir} differs from the undisturbed run after {dict(self.counts)}")
        self.counts["runs"] += 1


def run_pipeline(module: object, flags: Sequence[str], environment: dict[str, str]) -> None:
    """A pipeline's command line in this process, silent."""
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the process ends soon)
    module.main(flags)


def write_prompts(path: Path) -> None:
    """Questions whose answers the scripted engine hits now and then, one row without its image, one broken line."""
    rows = [{"question": f"Question {index}?", "answer": "ABC3"[index % 4]} for index in range(PROMPTS)]
    rows.insert(7, {"image": "gone.png", "question": "What is this?", "answer": "A"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n", encoding="utf-8")


def spend_kills(kind: type[Kills], usual: int, *, about: str | None, arguments: Sequence[str] | None = None) -> None:
    """The command line of a benchmark: run until all kills are spent, write the figures.

    Args:
        kind: of kills.
        usual: kills of the committed result, which is written only where --kills is not given.
        about: the benchmark's docstring.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help=f"kills to spend; without, the {usual} of the committed result")
    parser.add_argument("--seed", type=int, default=0, help="another seed kills at other moments")
    args = parser.parse_args(arguments)
    wanted, begin = args.kills or usual, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        kills = kind(Path(name), random.Random(args.seed))
        write_prompts(kills.folder / "prompts.jsonl")
        kills.undisturbed()
        while kills.spent < wanted:
            kills.run(wanted)
    figures = {
        **kills.counts,
        "answers per run": kills.expected[0].count(b"\n"),
        "runs equal to the undisturbed one": kills.counts["runs"],
        "seconds": round(time.perf_counter() - begin, 1),
        "python": platform.python_version(),
    }
    print(json.dumps(figures, indent=2))
    if not args.kills:
        (RESULTS / f"{Path(sys.argv[0]).stem}.json").write_text(json.dumps(figures, indent=2) + "\n")
