"""Groups on two ranks, timed: a shape in which they gain, and one in which they would lose were they not split.

    python benchmarks/grouped_ranks.py             # writes results/grouped_ranks.json
    python benchmarks/grouped_ranks.py --rounds 1  # the short form

Each run is a `train_mpo` of two processes over gloo, forked from this one to save them the imports: a small model in
float32 on the CPU, pictures of 7 tiles of 64 tokens, 4 pairs of each prompt. A rank notes the CPU seconds of every
micro-batch, forward and backward; a step lasts as long as the rank with the most. Steps are alike, forms take turns,
and the shortest step of each form counts, since other work on the machine only adds. `gain`: a rank has 4 pairs in a
step. `split`: it has one, so that two pairs meet only where the other rank idles. `whole` are groups as they were
before they had limits: never split, never left alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_run import golden_flags
from machine import describe_machine, write_results
from PIL import Image

from internvl_chat import train_mpo
from internvl_chat.data import planning, steps
from internvl_chat.run.process import free_port
from internvl_chat.run.trainer import MultimodalDPOTrainer
from tools import make_tiny_checkpoint

FORK = multiprocessing.get_context("fork")
WORLD = 2
SHAPES = {"gain": 4, "split": 1}  # pairs of a rank in a step
PAIRS_PER_PROMPT = 4
STEPS = 3  # of a run, after the first
TILE_SIDE = 224
MODEL = {"image_size": TILE_SIDE, "vit_num_hidden_layers": 4}
WORDS = "the years of the chart are counted from the left to the right and each of them has a bar of its own " * 3


def write_data(folder: Path, prompts: int) -> Path:
    """Pairs that share a prompt and a picture by four; returns the meta.json."""
    rng = np.random.default_rng(0)
    rows = []
    for prompt in range(prompts):
        Image.fromarray(rng.integers(0, 256, (2 * TILE_SIDE, 3 * TILE_SIDE, 3), np.uint8)).save(
            folder / f"{prompt}.png"
        )
        question = f"How many bars has chart {prompt}?"
        for pair in range(PAIRS_PER_PROMPT):
            chosen, rejected = f"{WORDS} so {pair}", f"{WORDS} but {pair} of them"
            rows.append({"image": f"{prompt}.png", "question": question, "chosen": chosen, "rejected": rejected})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(json.dumps({"made": {"root": ".", "annotation": "rows.jsonl"}}))
    return folder / "meta.json"


def rank_of(flags: Sequence[str], place: dict[str, str], log: Path, notes: Path, keeps_whole: bool) -> None:
    """`train_mpo` as one rank, in this process, which was forked for it; notes the CPU seconds of micro-batches."""
    os.environ.update(place)
    with log.open("a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    seconds: list[float] = []
    train_one = MultimodalDPOTrainer.training_step

    def timed(self: MultimodalDPOTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        begin = time.process_time()
        loss = train_one(self, *args, **kwargs)
        seconds.append(time.process_time() - begin)
        return loss

    MultimodalDPOTrainer.training_step = timed  # type: ignore[method-assign]
    if keeps_whole:
        planning.LEAST_GAIN = 0.0
        steps._cuts = lambda step, ranks, most_tokens: [steps.fitting_parts(step, most_tokens)]  # type: ignore[assignment]
    train_mpo.main(flags)
    notes.write_text(json.dumps(seconds))


@dataclass
class Runs:
    """Runs of one model on the rows of one folder."""

    folder: Path
    meta: Path

    def seconds_of_a_step(self, name: str, *, keeps_whole: bool = False, **settings: Any) -> tuple[float, str]:
        """The shortest step but the first, and what the ranks logged; ChildProcessError if one fails."""
        log, port, ranks = self.folder / f"{name}.log", str(free_port()), []
        run = {"model_name_or_path": self.folder / "ckpt", "meta_path": self.meta, "force_image_size": TILE_SIDE}
        run |= {"max_seq_length": 2048, "save_strategy": "no", "watchdog_seconds": 0, "reference": "model"}
        flags = golden_flags(self.folder / name, **run, **settings)
        for rank in range(WORLD):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            notes = self.folder / f"{name}.{rank}.json"
            ranks.append(FORK.Process(target=rank_of, args=(flags, place, log, notes, keeps_whole)))
            ranks[-1].start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            raise ChildProcessError(f"{name} failed: {log.read_text()[-2000:]}")
        noted = [json.loads((self.folder / f"{name}.{rank}.json").read_text()) for rank in range(WORLD)]
        return float(np.min(np.max(noted, axis=0)[1:])), log.read_text()

    def compare(self, shape: str, rounds: int) -> dict[str, Any]:
        """An ungrouped run of a shape, a grouped one, and one with whole groups."""
        flags = {"per_device_train_batch_size": SHAPES[shape], "max_steps": 1 + STEPS}
        forms: dict[str, dict[str, Any]] = {
            "ungrouped": {"balance_ranks": True},
            "grouped": {"group_by": "prompt"},
            "whole": {"group_by": "prompt", "keeps_whole": True},
        }
        seconds: dict[str, float] = dict.fromkeys(forms, np.inf)
        said = ""
        for number in range(rounds):
            for form, own in forms.items():
                took, log = self.seconds_of_a_step(f"{shape}-{form}-{number}", **flags, **own)
                seconds[form] = min(seconds[form], took)
                said = log if form == "grouped" else said
        promised = re.search(r"([\d.]+) times as fast", said)
        return {
            "pairs of a rank in a step": SHAPES[shape],
            "cpu_seconds": {form: round(least, 3) for form, least in seconds.items()},
            "gain": round(seconds["ungrouped"] / seconds["grouped"], 2),
            "gain of whole groups": round(seconds["ungrouped"] / seconds["whole"], 2),
            "promised by the log": float(promised.group(1)) if promised else None,
            "was ungrouped": "NOT GROUPED" in said,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both shapes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="3 and more write the result, fewer print")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        prompts = -(-(1 + STEPS) * WORLD * max(SHAPES.values()) // PAIRS_PER_PROMPT)
        words = [word for key, value in MODEL.items() for word in (f"--{key}", str(value))]
        make_tiny_checkpoint.main(["--out", f"{name}/ckpt", *words])
        runs = Runs(Path(name), write_data(Path(name), prompts))
        figures = {"rounds": args.rounds, "shapes": {shape: runs.compare(shape, args.rounds) for shape in SHAPES}}
    if args.rounds >= 3:
        write_results("grouped_ranks", figures)
    else:
        print(json.dumps({**figures, "machine": describe_machine()}, indent=2))


if __name__ == "__main__":
    main()
