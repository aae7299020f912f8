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

import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from killed_ranks import FORK, Kills, run_pipeline, spend_kills

from tools.reasoning_data_pipeline import mmpr_data_pipeline_correctness_postprocess

SAMPLES = 16


class RankKills(Kills):
    """Kills ranks and tears their files."""

    @property
    def spent(self) -> int:
        """Ranks killed."""
        return self.counts["kills"]

    def start(self, out_dir: Path, world_size: int, delay: float) -> list[BaseProcess]:
        """Start all ranks of one launch."""
        self.counts["starts"] += world_size
        flags = ["--engine", "scripted", "--scripted-delay", str(delay), "--num-return-sequences", str(SAMPLES)]
        return self.start_ranks(out_dir, world_size, flags)

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
        """Let ranks work to the end; the outcome, or ValueError where a rank failed or none merged."""
        ranks = self.start(out_dir, world_size, delay=0.0)
        for process in ranks:
            process.join()
        codes, found = [process.exitcode for process in ranks], self.outcome(out_dir)
        if any(codes) or found is None:
            raise ValueError(f"{out_dir}: ranks of the last start ended with {codes}, merged: {found is not None}")
        return found

    def run(self, wanted: int) -> None:
        """A few of the kills that are left, then its end."""
        out_dir = self.folder / f"run-{self.counts['runs']}"
        for _ in range(self.chance.randint(3, 9)):
            if self.spent >= wanted or self.outcome(out_dir):
                break
            self.disturb(out_dir)
        self.finish(out_dir, self.chance.randint(1, 4))
        self.check(out_dir)

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


if __name__ == "__main__":
    spend_kills(RankKills, 200, about=__doc__)
