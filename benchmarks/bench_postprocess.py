"""Speed and memory of the correctness postprocess on answers that need no algebra.

    python benchmarks/bench_postprocess.py                 # 100,000 and 1,000,000 rows, writes results/
    python benchmarks/bench_postprocess.py --rows 20000    # the short form

Rows look like those of a sampling run: 32 answers per question of about 600 characters, choices, numbers and words as
ground truth, five different answers to a question, 10 % out of format. One worker process, so rows/s is rows/s/core.
Peak memory is that of the process (ru_maxrss), generation of the rows left out: each size runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.reasoning_data_pipeline import mmpr_data_pipeline_correctness_postprocess as postprocess

RESULTS = Path(__file__).parent / "results" / "bench_postprocess.json"
ANSWERS_PER_QUESTION = 32
FORMAT = 'Give step by step reasoning, and when you\'re ready to answer, please use the format "Final answer: .."'
WORDS = ["the", "angle", "shows", "that", "base", "height", "equals", "value", "chart", "year", "total", "so", "this"]
FINALS = ("A", "B", "C", "D", "12", "3.5", "2019", "cat", "Japan", "Yes", "No", "left side")


def rows(number: int) -> Iterator[dict[str, str]]:
    """`number` sampled answers, question by question."""
    chance = random.Random(0)
    for index in range(number):
        question, sample = divmod(index, ANSWERS_PER_QUESTION)
        if sample == 0:
            candidates, text = chance.sample(FINALS, 5), " ".join(chance.choices(WORDS, k=20))
            gold = candidates[0]
        final = gold if chance.random() < 0.4 else chance.choice(candidates)
        reasoning = "\n\n".join(" ".join(chance.choices(WORDS, k=30)) for _ in range(3))
        end = f"Final answer: {final}" if chance.random() > 0.1 else "I am not sure."
        yield {
            "image": f"images/{question}.png",
            "question": f"<image>\n{FORMAT}\n\nQuestion:\n\n{text}",
            "answer": gold,
            "question_orig": text,
            "response": f"{reasoning}\n\n{end}",
            "prompt_version": "en",
        }


def generate(number: int, folder: Path) -> None:
    """Write the rows over four files in mixed order, as four tile limits would."""
    files = [folder / f"max_tiles_{tiles}" / "bench_vqa.jsonl" for tiles in (1, 6, 12, 24)]
    for path in files:
        path.parent.mkdir(parents=True)
    streams = [open(path, "w", encoding="utf-8") for path in files]  # noqa: SIM115 (closed below)
    for index, row in enumerate(rows(number)):
        streams[index % 4].write(json.dumps(row) + "\n")
    for stream in streams:
        stream.close()


def measure(data_dir: Path, save_dir: Path, number: int) -> dict[str, float]:
    """Run the postprocess in this process."""
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin, cpu = time.perf_counter(), time.process_time()
    postprocess.main(["--data-dir", str(data_dir), "--save-dir", str(save_dir), "--num-workers", "1"])
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": number,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "rows_per_second": round(number / seconds),
        "rows_per_cpu_second": round(number / cpu),
        "peak_mb": round(peak, 1),
        "idle_mb": round(idle, 1),
    }


def measure_apart(number: int) -> dict[str, float]:
    """Generate the rows, then measure in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(number, folder / "data")
        command = [sys.executable, __file__, "--measure", str(folder / "data"), str(folder / "pairs"), str(number)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads((folder / "pairs" / "figures.json").read_text())


def main() -> None:
    """Measure each size and write the figures with the machine they were taken on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", help="sizes; without, the two of the committed result")
    parser.add_argument("--measure", nargs=3, metavar=("DATA", "SAVE", "ROWS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        data_dir, save_dir, number = args.measure
        figures = measure(Path(data_dir), Path(save_dir), int(number))
        (Path(save_dir) / "figures.json").write_text(json.dumps(figures))
        return
    runs = [measure_apart(number) for number in args.rows or (100_000, 1_000_000)]
    machine = {"cpu": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps(runs, indent=2))
    if not args.rows:
        RESULTS.write_text(
            json.dumps({"machine": machine, "python": platform.python_version(), "runs": runs}, indent=2)
        )


if __name__ == "__main__":
    main()
