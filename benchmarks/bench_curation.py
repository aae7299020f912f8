"""Curation: what share of planted duplicates and leaks is found, how many clean rows are lost; speed and memory.

    python benchmarks/bench_curation.py                            # all of it, writes results/curation.json
    python benchmarks/bench_curation.py --rows 20000               # the short form, prints only

Pictures of scikit-image and scikit-learn are among the planted ones where these are installed (`pip install
scikit-image scikit-learn`; nothing else here needs them). Rows of the second part have questions of 20 words, 15 pairs
a prompt, and 1,000 pictures, held against 1,000 questions with 100 others; it is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from machine import call_apart, write_results
from planted_rows import SUBJECTS, drawn_pictures, plant, shipped_pictures

from tools import curate

PAIRS_PER_PROMPT = 15
PICTURES, HELD_OUT_PICTURES = 1_000, 100
SEEDS = 2
LEAKS = ("leaked_picture", "leaked_question")
DUPLICATES = ("near_duplicate", "duplicate_pair")


def detect(seed: int) -> dict[str, Any]:
    """Plant, curate, count: kind -> [found, planted]."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds, meta, held_out = plant(folder, seed)
        flags = [
            "--meta_path",
            str(meta),
            "--out",
            str(folder / "out"),
            "--near_duplicates",
            "--held_out",
            str(held_out),
        ]
        curate.main([*flags, "--held_out_image_root", str(folder / "images")])
        lines = (folder / "out/left_out.jsonl").read_text().splitlines()
        left = {row["line"] - 1: row["filter"] for row in map(json.loads, lines)}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in dict.fromkeys(kinds)}
    for row, kind in enumerate(kinds):
        wanted = LEAKS if kind.startswith("leak") else DUPLICATES
        found = left.get(row) in wanted if kind != "clean" else row in left
        counts[kind].update(["rows", *(["found"] if found else [])])
    return {kind: [found["found"], found["rows"]] for kind, found in counts.items()}


def detection() -> dict[str, Any]:
    """Sums over some seeds, as shares."""
    sums: dict[str, list[int]] = {}
    for seed in range(SEEDS):
        for kind, (found, rows) in detect(seed).items():
            before = sums.get(kind, [0, 0])
            sums[kind] = [before[0] + found, before[1] + rows]
    clean = sums.pop("clean")
    return {
        "pictures": {"shipped by packages": len(list(shipped_pictures())), "drawn": 3 * 40},
        "found_percent": {kind: round(100 * found / rows, 2) for kind, (found, rows) in sorted(sums.items())},
        "planted": {kind: rows for kind, (_, rows) in sorted(sums.items())},
        "false_alarms_percent": round(100 * clean[0] / clean[1], 2),
        "clean_rows": clean[1],
    }


def write_rows(folder: Path, number: int) -> None:
    """`number` pairs, an evaluation file of 1,000 questions, and pictures."""
    chance = random.Random(0)
    (folder / "images").mkdir(parents=True)
    for index, (_, image) in zip(range(PICTURES + HELD_OUT_PICTURES), drawn_pictures(PICTURES), strict=False):
        image.resize((160, 120)).save(folder / "images" / f"{index}.png")
    words = [
        f"{one}{other}" for one in SUBJECTS for other in ("ing", "less", "like", "ward", "most", "ish", "able", "ful")
    ]
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for row in range(number):
            if row % PAIRS_PER_PROMPT == 0:
                question = f"<image>\nQuestion {row}: " + " ".join(chance.choices(words, k=20)) + "?"
                picture = f"{chance.randrange(PICTURES)}.png"
            long, short = "so " * chance.randint(20, 60), "so " * chance.randint(5, 50)
            answers = {"chosen": f"{long} it is {row}.", "rejected": f"{short} it is not {row}."}
            file.write(json.dumps({"image": picture, "question": question, **answers}) + "\n")
    questions = (
        {"question": " ".join(chance.choices(words, k=20)), "answer": "1", "image": f"{PICTURES + index % 100}.png"}
        for index in range(1000)
    )
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "meta.json").write_text(json.dumps({"pairs": {"root": "images", "annotation": "pairs.jsonl"}}))


def measure(folder: Path) -> dict[str, Any]:
    """Curate in this process; seconds, rows a second, peak memory of this process and of its workers."""
    flags = ["--near_duplicates", "--pairs_per_prompt", "8", "--most_longer", "0.6", "--num_workers", "2"]
    flags += ["--held_out", str(folder / "held_out.jsonl"), "--held_out_image_root", str(folder / "images")]
    begin = time.perf_counter()
    curate.main(["--meta_path", str(folder / "meta.json"), "--out", str(folder / "out"), *flags])
    seconds = time.perf_counter() - begin
    record = json.loads((folder / "out/curation.json").read_text())
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "rows": record["rows"],
        "stays": record["stays"],
        "seconds": round(seconds, 1),
        "rows_per_second": round(record["rows"] / seconds),
        "rows_per_cpu_second": round(record["rows"] / cpu),
        "peak_mb": round(peaks[0]),
        "peak_mb_of_a_worker": round(peaks[1]),
    }


def main() -> None:
    """Measure, and write the figures with the machine that they were taken on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    args = parser.parse_args()
    figures = {"detection": detection()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rows"
        write_rows(folder, args.rows)
        figures["size"] = call_apart(measure, folder)
    if args.rows == parser.get_default("rows"):
        write_results("curation", figures)
    else:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
