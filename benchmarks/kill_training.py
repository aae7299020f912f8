"""Kill trainings: whatever dies when, a resumed run logs the losses of an undisturbed one and its ledger agrees.

    python benchmarks/kill_training.py               # 100 kills, writes results/kill_training.json
    python benchmarks/kill_training.py --kills 2     # the short form, a kill of each kind of run

Runs of one and of two processes in turn, forked from this one to save them the imports, train a tiny InternVL in
float32 on the CPU: two epochs, a row that cannot be used in each, a log entry every second step and a checkpoint every
third, so that some fall between two entries; half of them with pairs grouped by image and a budget of tokens. Each
round kills all processes of a run with SIGKILL: at a random moment, or at a random moment while a checkpoint is being
written. Now and then a byte of the newest checkpoint is turned afterwards. The next round continues from what is left.
When a run is at its end, every logged figure but speed and memory must be that of the undisturbed run of as many
processes, bit for bit, as must the ledger, the skips and the exported weights; then the next run begins, until all
kills are spent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from golden_run import GOLDEN, golden_flags
from machine import describe_machine, write_results

from internvl_chat import training
from internvl_chat.checkpoint.files import SAVING
from internvl_chat.run.process import free_port

FORK = multiprocessing.get_context("fork")
PAIRS_PER_STEP = 4
GROUPED = {"group_by": "image", "tokens_per_device": 2048}
CHANGING = ("pairs_per_second", "tokens_per_second", "peak_memory_gib")  # from run to run
CHANGING_AT_THE_END = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")


@dataclass(frozen=True)
class Way:
    """How runs are started: number of processes, and whether pairs are grouped."""

    world: int
    is_grouped: bool

    def __str__(self) -> str:
        return f"{self.world} process{'es' if self.world > 1 else ''}{', grouped' if self.is_grouped else ''}"


WAYS = (Way(1, False), Way(2, True), Way(1, True), Way(2, False))


def make_data(folder: Path) -> Path:
    """The golden rows, a second question about each image, and a row without its image; returns the meta.json."""
    data = shutil.copytree(GOLDEN / "data", folder / "data")
    rows = [json.loads(line) for line in (data / "mmpr_en.jsonl").read_text().splitlines()]
    more = [{**row, "question": f"{row['question']} Say why."} for row in rows if isinstance(row.get("image"), str)]
    (data / "mmpr_en.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, *more)))
    rows = (data / "mmpr_zh.jsonl").read_text().splitlines()
    (data / "mmpr_zh.jsonl").write_text("\n".join([*rows, json.dumps({**json.loads(rows[0]), "image": "gone.png"})]))
    return data / "meta.json"


def train(flags: Sequence[str], place: dict[str, str], log: Path) -> None:
    """A training in this process, which was forked for it."""
    os.environ.update(place)
    with log.open("a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    training.train(flags)


@dataclass
class Kills:
    """Runs trainings, kills them, and checks every one that came to its end.

    Attributes:
        folder: scratch space.
        meta: of the rows.
        chance: decides the moments.
        expected: what the undisturbed run of each way left.
        seconds: that a run of each way takes; it follows the load of the machine.
        counts: kills, starts, runs.
    """

    folder: Path
    meta: Path
    chance: random.Random
    expected: dict[Way, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[Way, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def start(self, out: Path, way: Way) -> list[BaseProcess]:
        """Start all processes of a run, or of what is left of it."""
        batch = {
            "per_device_train_batch_size": PAIRS_PER_STEP // way.world,
            "drop_path_rate": 0.2,
            "num_train_epochs": 2,
        }
        saves = {"save_steps": 3, "save_total_limit": 3, "logging_steps": 2}
        saves |= {"max_skipped_share": 0.5, "watchdog_seconds": 0, **(GROUPED if way.is_grouped else {})}
        flags = golden_flags(out, meta_path=self.meta, **batch, **saves)
        self.counts["starts"] += 1
        port = str(free_port())
        ranks = []
        for rank in range(way.world):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(way.world)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks.append(FORK.Process(target=train, args=(flags, place if way.world > 1 else {}, self.folder / "log")))
            ranks[-1].start()
        return ranks

    def disturb(self, out: Path, way: Way) -> None:
        """One round: start, and kill at some moment."""
        seconds = self.seconds[way]
        ranks = self.start(out, way)
        kind = self.chance.choice(("kills at any moment", "kills while saving"))
        if kind == "kills while saving":
            skip = self.chance.randint(0, 2)  # checkpoints that this round lets pass
            seen: set[str] = set()
            while len(seen) <= skip and any(rank.is_alive() for rank in ranks):
                seen |= names_in(out / SAVING)
                time.sleep(0.001)
            time.sleep(self.chance.uniform(0, 0.02 * seconds))
        else:
            time.sleep(self.chance.uniform(0.1, 1.0) * seconds)
        was_alive = [rank.is_alive() for rank in ranks]
        self.check_exits(out, ranks)
        torn = (out / SAVING).is_dir()
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.join()
        self.seconds[way] *= 1.1 if all(was_alive) else 0.7
        if all(was_alive):
            self.counts[kind] += 1
            self.counts["kills"] += 1
            self.counts[f"kills of {way}"] += 1
            self.counts["unfinished checkpoints"] += torn
        self.turn_a_byte(out)

    def turn_a_byte(self, out: Path) -> None:
        """Damage the newest checkpoint now and then, if there is an older one."""
        found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        if len(found) < 2 or self.chance.random() > 0.2:
            return
        path = self.chance.choice(
            sorted(path for path in found[-1].rglob("*") if path.is_file() and path.stat().st_size)
        )
        content = bytearray(path.read_bytes())
        content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        path.write_bytes(content)
        self.counts["damaged checkpoints"] += 1

    def finish(self, out: Path, way: Way) -> dict[str, Any]:
        """Let a run come to its end; what it left, or RuntimeError where it failed."""
        ranks = self.start(out, way)
        for rank in ranks:
            rank.join()
        self.check_exits(out, ranks)
        return result_of(out)

    def check_exits(self, out: Path, ranks: Sequence[BaseProcess]) -> None:
        """Raise RuntimeError where a process that nobody killed has failed."""
        if codes := [rank.exitcode for rank in ranks if rank.exitcode]:
            raise RuntimeError(f"{out}: exit codes {codes}; {(self.folder / 'log').read_text()[-3000:]}")

    def run(self, kills: int, way: Way, most: int) -> None:
        """One training: at most so many kills, then its end; RuntimeError if it is another run."""
        out = self.folder / f"run-{self.counts['runs']}"
        for _ in range(min(most, self.chance.randint(3, 8))):
            if self.counts["kills"] < kills and not (out / "train_results.json").is_file():
                self.disturb(out, way)
        result = self.finish(out, way)
        if differing := [name for name, value in self.expected[way].items() if result[name] != value]:
            expected = {name: self.expected[way][name] for name in differing}
            found = {name: result[name] for name in differing}
            raise RuntimeError(f"{out}: not the undisturbed run, but {found} in place of {expected}")
        self.counts["runs"] += 1
        print(f"{self.counts['kills']} kills, {self.counts['runs']} runs as they should be", file=sys.stderr)
        shutil.rmtree(out)

    def undisturbed(self, way: Way) -> None:
        """Train without a kill; the time it takes sets the moments of the kills."""
        out = self.folder / "calm"
        begin = time.perf_counter()
        self.expected[way] = self.finish(out, way)
        self.seconds[way] = time.perf_counter() - begin
        if way.is_grouped and "NOT GROUPED" in (self.folder / "log").read_text():
            raise RuntimeError(f"{way}: the run did without groups, so this tells nothing of them")
        shutil.rmtree(out)


def names_in(folder: Path) -> set[str]:
    """What a folder holds; nothing where it has just gone."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def result_of(out: Path) -> dict[str, Any]:
    """What must not depend on kills: log, ledger with each row, skips and weights."""
    state = json.loads((out / "trainer_state.json").read_text())
    left_out = CHANGING + CHANGING_AT_THE_END
    log = [{name: value for name, value in entry.items() if name not in left_out} for entry in state["log_history"]]
    ledger = json.loads((out / "ledger.json").read_text())
    if not ledger["adds_up"]:
        raise RuntimeError(f"{out}: the ledger does not add up: {ledger}")
    return {
        "log": log,
        "ledger": ledger,
        "rows": (out / "ledger_rows.jsonl").read_text(),
        "skipped": sorted((out / "skipped.jsonl").read_text().splitlines()),
        "weights": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Spend the kills and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="kills to spend; without, the 100 of the committed result")
    parser.add_argument("--seed", type=int, default=0, help="another seed kills at other moments")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    wanted, begin = args.kills or 100, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        kills = Kills(Path(name), make_data(Path(name)), random.Random(args.seed))
        kills.undisturbed(WAYS[0])  # compiles, and its time says nothing
        while kills.counts["kills"] < wanted:
            way = WAYS[kills.counts["runs"] % len(WAYS)]
            if kills.counts["runs"] < len(WAYS):
                kills.undisturbed(way)
            kills.run(wanted, way, most=-(-wanted // 2))
    counted = dict(kills.counts)
    figures = {
        **counted,
        "runs equal to the undisturbed one": counted["runs"],
        "steps of a run": kills.expected[WAYS[0]]["log"][-1]["step"],
        "seconds": round(time.perf_counter() - begin, 1),
    }
    if args.kills:
        print(json.dumps({**figures, "machine": describe_machine()}, indent=2))
    else:
        write_results("kill_training", figures)


if __name__ == "__main__":
    main()
