"""A job that Slurm warns before its first step: queued again every time, and finished by its second start.

    python benchmarks/requeue.py             10 tries on a real Slurm of two nodes, some 15 minutes on two cores
    python benchmarks/requeue.py --tries 2   prints; $SLURM_CONF names a Slurm that is there already

A try is a batch job of two ranks on two nodes, as `sbatch --requeue` starts `shell/launch.sh`. Slurm sends SIGUSR1, the
warning of `--signal`, to its tasks: right when they are there, before a handler can be, or while the run reads its
data and loads its model, after a delay that is drawn. What is wanted: the job goes back into the queue, its second
start trains to the end, its exit code is 0, and the weights are those of every other try. A warning that came after the
first step (it saves then, which the tests cover) is counted and tried again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from golden_run import golden_flags
from machine import describe_machine, write_results
from slurm_lab import lab

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600
BATCH = "--parsable --requeue --nodes=2 --ntasks=2 --ntasks-per-node=1 --gres=gpu:1 --open-mode=append"
STEP = ": loss "  # in the line of a logged step
QUEUED = "goes back into the queue"


def training(out: Path) -> str:
    """The command of every job."""
    flags = " ".join(golden_flags(out, per_device_train_batch_size=1, max_steps=3))
    return f"bash {ROOT}/shell/launch.sh tests.slurm.slow_training {flags}"


@dataclass
class Tries:
    """Tries and what came of them.

    Attributes:
        folder: scratch space.
        slurm: environment of the commands of Slurm.
        within: the longest delay of a warning, seconds.
        chance: draws the delays.
        counts: of the outcomes.
        digests: of the weights that the jobs left.
    """

    folder: Path
    slurm: dict[str, str]
    within: float
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    digests: set[str] = field(default_factory=set)

    def run(self, number: int) -> None:
        """One try; RuntimeError where it did not end as it must."""
        out = self.folder / f"run-{self.counts.total()}"
        log = out.with_suffix(".log")
        words = ["sbatch", *BATCH.split(), f"--output={log}", "--wrap", training(out)]
        job = self.ask(*words).strip()
        at_once = number % 2 == 0
        if at_once:
            self._wait(lambda: ".0 " in self.ask("squeue", "--noheader", "--steps", f"--jobs={job}"), log)
        else:
            self._wait(lambda: "internvl_chat" in _read(log).partition(" -m ")[2].partition("\n")[2], log)
        time.sleep(self.chance.uniform(0, self.within))
        subprocess.run(["scancel", "--signal=USR1", job], env=self.slurm, check=False)  # it may have ended
        self._wait(lambda: not self.ask("squeue", "--noheader", f"--jobs={job}").strip(), log)
        first = _read(log).partition(QUEUED)[0]
        shown = self.ask("scontrol", "show", "job", job)
        state = {name: value for name, _, value in (word.partition("=") for word in shown.split())}
        if STEP in first:
            self.counts["warned after the first step"] += 1
            return
        if (state["JobState"], state["Restarts"], state["ExitCode"]) != ("COMPLETED", "1", "0:0"):
            raise RuntimeError(f"job {job} ended otherwise: {shown}\n{_read(log)[-4000:]}")
        self.digests.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
        if len(self.digests) > 1:
            raise RuntimeError(f"not the weights of the tries before: {_read(log)[-4000:]}")
        self.counts["warned when its tasks were there" if at_once else "warned while it loaded"] += 1

    @property
    def done(self) -> int:
        """Tries in which the warning came before the first step."""
        return self.counts.total() - self.counts["warned after the first step"]

    def ask(self, *words: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(words, env=self.slurm, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    def _wait(self, condition: Callable[[], bool], log: Path) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing happens any more: {_read(log)[-4000:]}")
            time.sleep(0.1)


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tries and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10, help="10 and more write results/requeue.json, fewer print")
    parser.add_argument("--within", type=float, default=8.0, help="longest delay of a warning, seconds")
    parser.add_argument("--seed", type=int, default=0, help="another seed takes other delays")
    args = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        slurm = dict(os.environ) if "SLURM_CONF" in os.environ else stack.enter_context(lab(folder / "lab"))
        tries = Tries(folder, slurm, args.within, random.Random(args.seed))
        while tries.done < args.tries:
            tries.run(tries.done)
            print(f"{tries.done} tries queued again and finished: {dict(tries.counts)}", file=sys.stderr)
        version = tries.ask("srun", "--version").split()[-1]
    figures = {"tries": tries.done, **tries.counts, "slurm": version}
    if args.tries >= 10:
        write_results("requeue", figures)
    else:
        print(json.dumps({**figures, "machine": describe_machine()}, indent=2))


if __name__ == "__main__":
    main()
