"""Two runs in one output folder: the first always ends well, the second always ends at once and names the first.

    python benchmarks/two_runs.py               # 20 tries, writes results/two_runs.json
    python benchmarks/two_runs.py --tries 2     # the short form

A try starts a tiny training, forked from this process to save it the imports, and the same command again after a random
delay: from the same moment on to near the end of the first, with `--overwrite_output_dir True` in every second try.
Where both start at once either may be the first. It must end with 0 and the weights of a run that nobody disturbed; the
other must end with an error that names the first's process. When the second comes after the end it must find the run
finished, or train it anew, and end with 0; such tries are counted apart and do not count as tries.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from golden_run import golden_flags
from machine import describe_machine, write_results

from internvl_chat import training
from internvl_chat.checkpoint.lock import FolderInUse

FORK = multiprocessing.get_context("fork")
REFUSED = 2  # exit code of the door for a user's mistake


def flags(out: Path) -> list[str]:
    """The command line of every run."""
    saves = {"max_steps": 6, "save_steps": 1, "save_total_limit": 2}
    return golden_flags(out, per_device_train_batch_size=2, watchdog_seconds=0, **saves)


def train(words: Sequence[str], log: Path) -> None:
    """A training in this process, which was forked for it; its refusal goes to the log."""
    with log.open("w") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    try:
        training.train(words)
    except FolderInUse as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(REFUSED) from None


@dataclass
class Tries:
    """Tries and what came of them.

    Attributes:
        folder: scratch space.
        chance: decides the delays.
        expected: digest of the weights of a run that nobody disturbed.
        seconds: that such a run takes.
        counts: of the outcomes.
        refusals: seconds from a second start to its end.
    """

    folder: Path
    chance: random.Random
    expected: str = ""
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)

    def start(self, out: Path, name: str, *more: str) -> BaseProcess:
        """A run in the folder; its output goes to a log of this name."""
        process = FORK.Process(target=train, args=([*flags(out), *more], self.folder / name))
        process.start()
        return process

    def undisturbed(self) -> None:
        """One run alone; its time sets the delays."""
        begin = time.perf_counter()
        run = self.start(self.folder / "alone", "log")
        run.join()
        self.seconds, self.expected = time.perf_counter() - begin, digest(self.folder / "alone")

    def run(self, number: int) -> None:
        """One try; RuntimeError where it went otherwise than it must."""
        out = self.folder / f"run-{self.counts.total()}"
        at_once = number % 4 == 0
        first = self.start(out, "first")
        time.sleep(0 if at_once else self.chance.uniform(0, 0.8) * self.seconds)
        begin = time.perf_counter()
        second = self.start(out, "second", *(["--overwrite_output_dir", "True"] if number % 2 else []))
        second.join()
        took = time.perf_counter() - begin
        first.join()
        if first.exitcode == second.exitcode == 0:
            self.counts["came after the end of the first"] += 1
        elif (first.exitcode, second.exitcode) == (0, REFUSED):
            self._check("second", first)
            self.refusals.append(took)
            self.counts["second ended and named the first"] += 1
        elif at_once and (first.exitcode, second.exitcode) == (REFUSED, 0):
            self._check("first", second)
            self.counts["started at once, the other was first"] += 1
        else:
            raise RuntimeError(f"exit codes {first.exitcode} and {second.exitcode}: {self._logs()}")
        if digest(out) != self.expected:
            raise RuntimeError(f"not the weights of an undisturbed run: {self._logs()}")

    def _check(self, refused: str, winner: BaseProcess) -> None:
        if f"in use by the run of process {winner.pid} on host" not in (self.folder / refused).read_text():
            raise RuntimeError(f"process {winner.pid} is not named: {self._logs()}")

    def _logs(self) -> str:
        return " | ".join((self.folder / name).read_text()[-1500:] for name in ("first", "second"))

    @property
    def done(self) -> int:
        """Tries in which both runs were there at a time."""
        return self.counts.total() - self.counts["came after the end of the first"]


def digest(out: Path) -> str:
    """Of the exported weights."""
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tries and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20, help="20 and more write results/two_runs.json, fewer print")
    parser.add_argument("--write", action="store_true", help="write the result of fewer tries too")
    parser.add_argument("--seed", type=int, default=0, help="another seed takes other delays")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        tries = Tries(Path(name), random.Random(args.seed))
        tries.undisturbed()
        while tries.done < args.tries:
            tries.run(tries.done)
            print(f"{tries.done} tries as they should be", file=sys.stderr)
    figures = {
        "tries": tries.done,
        **tries.counts,
        "seconds of a run": round(tries.seconds, 1),
        "seconds until a second start ended, most": round(max(tries.refusals, default=0.0), 1),
    }
    if args.tries >= 20 or args.write:
        write_results("two_runs", figures)
    else:
        print(json.dumps({**figures, "machine": describe_machine()}, indent=2))


if __name__ == "__main__":
    main()
