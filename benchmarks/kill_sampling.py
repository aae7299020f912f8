"""Kill runs: whatever dies when, a resumed sampling run ends in exactly the answers of an undisturbed one.

    python benchmarks/kill_sampling.py               # 200 rounds of kills, writes results/kill_sampling.json
    python benchmarks/kill_sampling.py --kills 5     # the short form

Each round starts 1 to 4 ranks, kills 1 to 4 of them with SIGKILL at a random moment, now and then tears the last line
of a shard as a power failure would, and starts again; the others may go on to their end. When a run is complete, its
merged file must equal that of the undisturbed run byte for byte: no answer lost, none twice. Then the next run begins,
until all kills are spent. Ranks are processes that write to a `SampleStore`, with an engine that makes up answers from
seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.reasoning_data_pipeline.store import SampleStore, sample_seed
from tools.reasoning_data_pipeline.worker import Worker

RESULTS = Path(__file__).parent / "results" / "kill_sampling.json"
PROMPTS, SAMPLES = 120, 8


def rank_main(output: Path, rank: int, world_size: int, pause: float) -> None:
    """One rank: answer what is left, then merge if everything is there."""
    keys = [f"prompt {index}" for index in range(PROMPTS)]
    worker = Worker(rank, world_size, run_id="kill run")
    with SampleStore(output, keys=keys, num_samples=SAMPLES, parameters={"seed": 7}, worker=worker) as store:
        for key, samples in store.pending():
            chance = random.Random(sample_seed(7, key))
            if chance.random() < 0.05:
                store.reject(key, file="prompts.jsonl", line=1, reason="scripted")
                continue
            for sample in samples:
                seed = sample_seed(7, key, sample)
                store.append(key, {sample: {"question": key, "response": f"{seed} " * (1 + seed % 40)}})
                time.sleep(pause)
        store.finish()


@dataclass
class Kills:
    """Runs ranks, kills some, and checks every complete run against the undisturbed one.

    Attributes:
        folder: scratch space.
        expected: the merged file of the undisturbed run.
        counts: kills, torn tails, starts, runs.
    """

    folder: Path
    expected: bytes
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def start(self, output: Path, world_size: int, pause: float) -> list[subprocess.Popen[bytes]]:
        """Start all ranks of one launch."""
        self.counts["starts"] += world_size
        command = [sys.executable, __file__, "--rank", str(output)]
        return [subprocess.Popen([*command, str(rank), str(world_size), str(pause)]) for rank in range(world_size)]

    def disturb(self, output: Path) -> None:
        """One round: start 1 to 4 ranks, kill 1 to 4 of them at a random moment."""
        ranks = self.start(output, self.chance.randint(1, 4), pause=0.002)
        time.sleep(self.chance.uniform(0.15, 0.6))
        victims = self.chance.sample(ranks, self.chance.randint(1, len(ranks)))
        for process in victims:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                self.counts["kills"] += 1
        if self.chance.random() < 0.5:  # srun --kill-on-bad-exit takes the others down too
            for process in ranks:
                process.kill()
        for process in ranks:
            process.wait()
        self.tear(output)

    def tear(self, output: Path) -> None:
        """Cut the last bytes of a shard, now and then."""
        shards = sorted(output.with_suffix(".parts").glob("rank-*"))
        if shards and self.chance.random() < 0.3:
            shard = self.chance.choice(shards)
            os.truncate(shard, max(0, shard.stat().st_size - self.chance.randint(1, 50)))
            self.counts["torn tails"] += 1

    def run(self, kills: int) -> None:
        """One sampling run: up to `kills` more kills, then its end; ValueError if its answers differ."""
        output = self.folder / f"run-{self.counts['runs']}" / "data.jsonl"
        for _ in range(self.chance.randint(3, 9)):
            if self.counts["kills"] >= kills or output.exists():
                break
            self.disturb(output)
        for process in self.start(output, self.chance.randint(1, 4), pause=0.0):
            if code := process.wait():
                raise ValueError(f"{output}: a rank of the last start ended with {code}")
        if output.read_bytes() != self.expected:
            raise ValueError(f"{output} differs from the undisturbed run after {dict(self.counts)}")
        self.counts["runs"] += 1


def undisturbed(folder: Path) -> bytes:
    """The merged file without kills; the same for 1, 2 and 4 ranks, or ValueError."""
    merged = set()
    for world_size in (1, 2, 4):
        output = folder / f"undisturbed-{world_size}" / "data.jsonl"
        for rank in range(world_size):
            rank_main(output, rank, world_size, pause=0.0)
        merged.add(output.read_bytes())
    if len(merged) != 1:
        raise ValueError(f"1, 2 and 4 ranks gave {len(merged)} different files")
    return merged.pop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Spend the kills and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="kills to spend; without, the 200 of the committed result")
    parser.add_argument("--seed", type=int, default=0, help="another seed kills at other moments")
    parser.add_argument("--rank", nargs=4, metavar=("OUTPUT", "RANK", "RANKS", "PAUSE"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rank:
        output, rank, world_size, pause = args.rank
        rank_main(Path(output), int(rank), int(world_size), float(pause))
        return
    wanted, begin = args.kills or 200, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        run = Kills(Path(name), undisturbed(Path(name)), random.Random(args.seed))
        while run.counts["kills"] < wanted:
            run.run(wanted)
    figures = {
        **run.counts,
        "answers per run": run.expected.count(b"\n"),
        "runs equal to the undisturbed one": run.counts["runs"],
        "seconds": round(time.perf_counter() - begin, 1),
        "python": platform.python_version(),
    }
    print(json.dumps(figures, indent=2))
    if not args.kills:
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
