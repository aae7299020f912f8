"""A mixture of 3,000,000 rows: time to the first batch and peak memory of the main process and 2 loader workers.

    python benchmarks/bench_mixture.py [--rows 3000000]

Writes two synthetic data sets of rows with pictures into a temporary folder (about 2.3 GB), repeat_time 0.13 and 2.5,
and trains nothing: a fresh process opens the mixture and reads batches through 2 workers, shuffled as in training.
`cold` has no line index yet and the annotation files dropped from the page cache; `warm` is every later start. Memory
is sampled every 50 ms over the process and its workers: `pss` counts pages that several share once, `rss` once per
process. Seconds to the first batch count from the opening of the mixture; `whole_s` is the process with its imports and
all batches. Writes benchmarks/results/mixture.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import write_results
from PIL import Image

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.mixture import Mixture
from internvl_chat.model import load_tokenizer

CHECKPOINT = Path(__file__).parents[1] / "tests/golden/ckpt/tiny-qwen2"
WORKERS, BATCH, BATCHES = 2, 8, 20
REASONING = "First, look at the left side of the picture. Then compare it with the right side, one by one. " * 3
ROW = (
    '{{"id": {n}, "image": "{picture}.jpg", "question": "<image>\\nHow many objects are there in scene {n}?", '
    '"chosen": "{text}Scene {n} has {n} of them.\\n\\nFinal answer: {n}", '
    '"rejected": "{text}There are none.\\n\\nFinal answer: 0"}}\n'
)


def write_rows(path: Path, count: int) -> None:
    """Write `count` rows, each different, in pieces."""
    text = REASONING.replace('"', "'")
    with path.open("w") as file:
        for start in range(0, count, 10_000):
            stop = min(start + 10_000, count)
            file.writelines(ROW.format(n=n, picture=n % 8, text=text) for n in range(start, stop))


def make_mixture(folder: Path, rows: int) -> dict[str, int]:
    """Write pictures, two data sets and meta.json; return the exact counts by repeat_time, from whole numbers."""
    small = rows * 3 // 5 + 7  # odd counts, so that both repeat_times have to round
    counts = {"0.13": small, "2.5": rows - small}
    (folder / "images").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(folder / f"images/{number}.jpg")
    meta = {}
    for repeat_time, count in counts.items():
        write_rows(folder / f"{repeat_time}.jsonl", count)
        meta[f"repeat_{repeat_time}"] = {
            "root": str(folder / "images"),
            "annotation": str(folder / f"{repeat_time}.jsonl"),
            "repeat_time": float(repeat_time),
            "length": count,
        }
    (folder / "meta.json").write_text(json.dumps(meta))
    return {"0.13": (13 * counts["0.13"] + 50) // 100, "2.5": (5 * counts["2.5"] + 1) // 2}


def drop_from_page_cache(path: Path) -> None:
    """Write a file out and forget its pages, so that the next reader takes it from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_batches(meta: str, cache_dir: str) -> None:
    """What the measured process does; prints its times as JSON."""
    from torch.utils.data import DataLoader, RandomSampler

    from internvl_chat.data.collator import dpo_concat_pad_data_collator

    tokenizer = load_tokenizer(CHECKPOINT)
    start = time.perf_counter()
    dataset = MixtureDataset(meta, tokenizer, template="internvl2_5", num_image_token=256, cache_dir=cache_dir)
    opened = time.perf_counter()
    sampler = RandomSampler(dataset, num_samples=BATCH * BATCHES)
    batches = iter(
        DataLoader(dataset, BATCH, sampler=sampler, num_workers=WORKERS, collate_fn=dpo_concat_pad_data_collator)
    )
    rows = len(next(batches)["row_ids"])
    first = time.perf_counter()
    rows += sum(len(batch["row_ids"]) for batch in batches)
    print(json.dumps({"open_s": opened - start, "first_batch_s": first - start, "rows_read": rows}))


def memory_mib(pid: int) -> dict[str, float]:
    """PSS and RSS in MiB of a process and its children; {} sums where they are gone already."""
    total = {"pss": 0.0, "rss": 0.0}
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        pids = [pid, *map(int, children.read_text().split())]
        for one in pids:
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name.lower() in total:
                    total[name.lower()] += int(value.split()[0]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        return {"pss": 0.0, "rss": 0.0}
    return total


def measure(meta: Path, cache_dir: Path) -> dict[str, float]:
    """Run `read_batches` in a fresh process; its times and the peak memory of it and its workers."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--read", str(meta), "--cache-dir", str(cache_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = {"pss": 0.0, "rss": 0.0}
    while process.poll() is None:
        now = memory_mib(process.pid)
        peak = {name: max(peak[name], now[name]) for name in peak}
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the measured process ended with {process.returncode}: {' '.join(command)}")
    figures = json.loads(process.stdout.read().splitlines()[-1])
    figures |= {f"peak_{name}_mib": value for name, value in peak.items()}
    return {name: round(value, 2) for name, value in figures.items()} | {
        "whole_s": round(time.perf_counter() - start, 2)
    }


def main() -> None:
    """Make the mixture, check its counts, measure a cold and a warm start, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--cache-dir", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read_batches(args.read, args.cache_dir)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = make_mixture(folder, args.rows)
        files = list(folder.glob("*.jsonl"))
        for path in files:
            drop_from_page_cache(path)
        cold = measure(folder / "meta.json", folder / "cache")
        warm = measure(folder / "meta.json", folder / "cache")
        mixture = Mixture.from_meta(folder / "meta.json", cache_dir=folder / "cache")
        counts = {str(data.spec.repeat_time): len(data.order) for data in mixture.datasets}
        size = sum(path.stat().st_size for path in files)
    write_results(
        "mixture",
        {
            "rows": args.rows,
            "annotation_gib": round(size / 2**30, 2),
            "workers": WORKERS,
            "rows_by_repeat_time": counts,
            "rows_exact": counts == expected,
            "cold": cold,
            "warm": warm,
            "aims": {"first_batch_s": 20, "memory_mib": 1536},
        },
    )


if __name__ == "__main__":
    main()
