"""Kill runs: whatever dies when, a resumed sampling run ends in exactly the answers of an undisturbed one.

    python benchmarks/kill_sampling.py               # 200 kills, writes results/kill_sampling.json
    python benchmarks/kill_sampling.py --kills 5     # the short form

Ranks are processes that run the correctness pipeline with the scripted engine (forked from this one, to save them the
imports). Each round starts 1 to 4 ranks, kills 1 to 4 of them with SIGKILL at a random moment, now and then tears the
last line of a shard as a power failure would, and starts again; the others may go on to their end. When a run is
complete, its merged file and its rejects must equal those of the undisturbed run byte for byte: no answer lost, none
twice. Then the next run begins, until all kills are spent. Undisturbed runs of 1, 2 and 4 ranks, and the pairs made of
them, must be the same too.
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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tools.reasoning_data_pipeline import mmpr_data_pipeline_correctness, mmpr_data_pipeline_correctness_postprocess

RESULTS = Path(__file__).parent / "results" / "kill_sampling.json"
PROMPTS, SAMPLES = 60, 16
FORK = multiprocessing.get_context("fork")


def write_prompts(path: Path) -> None:
    """Questions whose answers the scripted engine hits now and then, one row without its image, one broken line."""
    rows = [{"question": f"Question {index}?", "answer": "ABC3"[index % 4]} for index in range(PROMPTS)]
    rows.insert(7, {"image": "gone.png", "question": "What is this?", "answer": "A"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n", encoding="utf-8")


def run_pipeline(module: object, flags: Sequence[str], environment: dict[str, str]) -> None:
    """A pipeline's command line in this process, silent."""
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the process ends soon)
    module.main(flags)


@dataclass
class Kills:
    """Runs ranks, kills some, and checks every complete run against the undisturbed one.

    Attributes:
        folder: scratch space with the prompt file.
        chance: decides the moments.
        expected: merged file and rejects of the undisturbed run.
        counts: kills, torn tails, starts, runs.
    """

    folder: Path
    chance: random.Random
    expected: tuple[bytes, bytes] = (b"", b"")
    counts: Counter[str] = field(default_factory=Counter)

    def start(self, out_dir: Path, world_size: int, delay: float) -> list[BaseProcess]:
        """Start all ranks of one launch."""
        self.counts["starts"] += world_size
        flags = ["--engine", "scripted", "--scripted-delay", str(delay), "--num-return-sequences", str(SAMPLES)]
        flags += ["--prompt-path", str(self.folder / "prompts.jsonl"), "--out-dir", str(out_dir)]
        ranks = []
        for rank in range(world_size):
            place = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "TORCHELASTIC_RUN_ID": "kills"}
            ranks.append(FORK.Process(target=run_pipeline, args=(mmpr_data_pipeline_correctness, flags, place)))
            ranks[-1].start()
        return ranks

    def disturb(self, out_dir: Path) -> None:
        """One round: start 1 to 4 ranks, kill 1 to 4 of them at a random moment."""
        ranks = self.start(out_dir, self.chance.randint(1, 4), delay=0.002)
        time.sleep(self.chance.uniform(0.02, 0.4))
        for process in self.chance.sample(ranks, self.chance.randint(1, len(ranks))):
            if process.is_alive():
                process.kill()
                self.counts["kills"] += 1
        if self.chance.random() < 0.5:  # srun --kill-on-bad-exit takes the others down too
            for process in ranks:
                process.kill()
        for process in ranks:
            process.join()
        self.tear(out_dir)

    def tear(self, out_dir: Path) -> None:
        """Cut the last bytes of a shard, now and then."""
        shards = sorted(out_dir.rglob("rank-*.jsonl"))
        if shards and self.chance.random() < 0.3:
            shard = self.chance.choice(shards)
            os.truncate(shard, max(0, shard.stat().st_size - self.chance.randint(1, 50)))
            self.counts["torn tails"] += 1

    def finish(self, out_dir: Path, world_size: int) -> tuple[bytes, bytes]:
        """Let ranks work to the end; the merged file and the rejects, or ValueError where a rank failed."""
        ranks = self.start(out_dir, world_size, delay=0.0)
        for process in ranks:
            process.join()
        if codes := [process.exitcode for process in ranks if process.exitcode]:
            raise ValueError(f"{out_dir}: ranks of the last start ended with {codes}")
        (output,) = out_dir.rglob("prompts.jsonl")
        return output.read_bytes(), (output.with_suffix(".parts") / "rejects.jsonl").read_bytes()

    def run(self, kills: int) -> None:
        """One sampling run: a few of the `kills` that are left, then its end; ValueError if its answers differ."""
        out_dir = self.folder / f"run-{self.counts['runs']}"
        for _ in range(self.chance.randint(3, 9)):
            if self.counts["kills"] >= kills or list(out_dir.rglob("prompts.jsonl")):
                break
            self.disturb(out_dir)
        if self.finish(out_dir, self.chance.randint(1, 4)) != self.expected:
            raise ValueError(f"{out_dir} differs from the undisturbed run after {dict(self.counts)}")
        self.counts["runs"] += 1

    def undisturbed(self) -> None:
        """Runs without kills: 1, 2 and 4 ranks must give the same files and the same pairs, or ValueError."""
        seen = set()
        for world_size in (1, 2, 4):
            out_dir, pairs = self.folder / f"calm-{world_size}", self.folder / f"pairs-{world_size}"
            self.expected = self.finish(out_dir, world_size)
            flags = ["--data-dir", str(out_dir), "--save-dir", str(pairs), "--num-workers", "1"]
            alone = {"RANK": "0", "WORLD_SIZE": "1"}
            post = FORK.Process(target=run_pipeline, args=(mmpr_data_pipeline_correctness_postprocess, flags, alone))
            post.start()
            post.join()
            seen.add((*self.expected, *(path.read_bytes() for path in sorted((pairs / "raw").iterdir()))))
        if len(seen) != 1:
            raise ValueError(f"1, 2 and 4 ranks gave {len(seen)} different results")
        self.counts["pairs"] = sum(text.count(b"\n") for text in seen.pop()[2:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Spend the kills and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="kills to spend; without, the 200 of the committed result")
    parser.add_argument("--seed", type=int, default=0, help="another seed kills at other moments")
    args = parser.parse_args(arguments)
    wanted, begin = args.kills or 200, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        kills = Kills(Path(name), random.Random(args.seed))
        write_prompts(kills.folder / "prompts.jsonl")
        kills.undisturbed()
        while kills.counts["kills"] < wanted:
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
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
