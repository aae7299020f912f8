"""Rows per second and core of tools/validate.py: rows of text, rows with pictures decoded or not.

    python benchmarks/bench_validate.py [--rows 50000] [--picture-rows 2000]

Times the check of rows alone (reading, checks, counting) in one process: seconds of CPU, so that other work on the
machine counts little, and seconds of the clock. `text` rows are as long as MMPR's: a question of some 250 characters,
answers of some 700 and 650. `text_with_tokenizer` also finds rows too long for 8,192 tokens. `whole_run` is the command
as users start it, with imports, report and page, over the text rows with all cores. Picture rows bring a JPEG each of
640 x 480 pixels, four rows to a picture. Writes benchmarks/results/validate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import write_results
from PIL import Image

from internvl_chat.data.images import Tiling
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.data.video import FrameLimits
from internvl_chat.model import load_tokenizer
from tools import validate
from tools.validation.chunks import ChunkChecker, cut_chunks
from tools.validation.mixtures import open_mixture
from tools.validation.rows import RowChecker

CHECKPOINT = Path(__file__).parents[1] / "tests/golden/ckpt/tiny-qwen2"
ROWS_PER_PICTURE = 4
STEP = "Look at part {} of the scene and compare it with what was found before, one by one. "
ASKED = (
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when you're ready "
    'to answer, please use the format "Final answer: .."\n\nQuestion:\n\nHow many objects are there in scene {}?'
)


def make_row(number: int) -> dict[str, str]:
    """A pair unlike all others, without a fault."""
    steps = "".join(STEP.format(number + step) for step in range(7))
    wordy = ", but that counts twice what is behind" * (number % 2)
    return {
        "question": ASKED.format(number),
        "chosen": f"{steps}Scene {number} has {number % 9} of them, so that is it.\n\nFinal answer: {number % 9}",
        "rejected": f"{steps}There is one more{wordy}.\n\nFinal answer: {number % 9 + 1}",
    }


def make_mixture(folder: Path, name: str, rows: int, *, pictures: bool) -> Path:
    """Write rows and their meta.json; pictures are noise over a gradient, as large in bytes as photographs."""
    (folder / "images").mkdir(exist_ok=True)
    ramp = np.linspace(0, 200, 640, dtype=np.uint8)[None, :, None]
    for number in range(rows // ROWS_PER_PICTURE if pictures else 0):
        noise = np.random.default_rng(number).integers(0, 56, (480, 640, 3), np.uint8)
        Image.fromarray(ramp + noise).save(folder / f"images/{number}.jpg")
    with (folder / f"{name}.jsonl").open("w") as file:
        for number in range(rows):
            row = make_row(number)
            picture = {"image": f"{number // ROWS_PER_PICTURE}.jpg"} if pictures else {}
            file.write(json.dumps({**picture, **row}) + "\n")
    meta = folder / f"{name}.json"
    meta.write_text(json.dumps({name: {"root": str(folder / "images"), "annotation": str(folder / f"{name}.jsonl")}}))
    return meta


def measure(meta: Path, *, with_tokenizer: bool = False, decode: bool = True) -> dict[str, float]:
    """Rows per second of CPU time and of the clock of one process."""
    tokenizer = RowTokenizer(load_tokenizer(CHECKPOINT), "internvl2_5", 256) if with_tokenizer else None
    datasets, _ = open_mixture(meta)
    rules = RowChecker(Tiling(), tokenizer, max_seq_length=8192, frames=FrameLimits(8, 32), decode=decode)
    check = ChunkChecker(rules, datasets)
    rows = sum(len(data.rows) for data in datasets)
    clock, cpu = time.perf_counter(), time.process_time()
    lines = [check(chunk).to_line() for chunk in cut_chunks(datasets)]
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    faults = sum(len(json.loads(line)[1]) for line in lines)
    if faults:
        raise RuntimeError(f"{faults} faults in rows that have none: {meta}")
    return {"rows": rows, "rows_per_cpu_second": round(rows / cpu), "rows_per_second": round(rows / clock)}


def measure_command(meta: Path, folder: Path, rows: int) -> dict[str, float]:
    """The whole command in this process: rows per second of the clock."""
    start = time.perf_counter()
    argv = ["--meta_path", str(meta), "--output_dir", str(folder / "report"), "--model_name_or_path", str(CHECKPOINT)]
    code = validate.main(argv)
    seconds = time.perf_counter() - start
    if code:
        raise RuntimeError(f"validate ended with {code}")
    workers = len(os.sched_getaffinity(0))
    return {"rows": rows, "workers": workers, "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds)}


def main() -> None:
    """Make the rows, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--picture-rows", type=int, default=2_000)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        text = make_mixture(folder, "text", args.rows, pictures=False)
        pictures = make_mixture(folder, "pictures", args.picture_rows, pictures=True)
        figures = {
            "text": measure(text),
            "text_with_tokenizer": measure(text, with_tokenizer=True),
            "pictures_decoded": measure(pictures, with_tokenizer=True),
            "pictures_headers_only": measure(pictures, with_tokenizer=True, decode=False),
            "whole_run": measure_command(text, folder, args.rows),
        }
        size = (folder / "text.jsonl").stat().st_size
    write_results("validate", {"bytes_per_text_row": round(size / args.rows), **figures, "aim_rows_per_second": 5000})


if __name__ == "__main__":
    sys.exit(main())
