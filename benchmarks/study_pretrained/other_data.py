"""Questions and pictures that others made, as prompts: those of the package `easy-vqa`.

    pip install easy-vqa
    python -m benchmarks.study_pretrained.other_data --checkpoint ckpt/tiny-base --work work_dirs/study_pretrained

Writes the prompts, rows {"image", "question", "answer", "task"}, then goes through the whole pipeline: the checkpoint's
answers to questions of `train`, pairs, MPO, and both checkpoints on questions of `test`, asked as they stand. The
pictures stay where the package has them. Like a stage of the study it is done once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.study.files import Row, lengths_of, write_rows
from benchmarks.study_pretrained.keyed import emptied, figures_of, keyed
from internvl_chat.run.entry import Parser, enter
from internvl_chat.train_mpo import main as train
from tools.evaluate import evaluate
from tools.evaluate import parse_arguments as parse_evaluation
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample_answers
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair_answers

STAGE = "easy vqa"
SAMPLE = "--engine transformers --dynamic --max-num 1 --max-new-tokens 48 --batch-size 32 --num-return-sequences 4"
PAIR = "--num-pairs-per-key 2 --num-workers 1"
TRAIN = (
    "--force_image_size 56 --max_dynamic_patch 1 --max_seq_length 512 --grad_checkpoint False --report_to none "
    "--save_strategy no --disable_tqdm True --per_device_train_batch_size 24 --learning_rate 5e-4 --max_steps 20 "
    "--loss_type sigmoid,bco_pair --logging_steps 5"
)
ASK = "--max-num 1 --max-new-tokens 16 --batch-size 128 --engine transformers"
YES_OR_NO = ("yes", "no")
SHAPES = ("circle", "rectangle", "triangle")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="that answers and is trained")
    parser.add_argument("--work", type=Path, default=Path("work_dirs/study_pretrained"), help="folder of all stages")
    parser.add_argument("--asked", type=int, default=400, help="questions to sample answers to")
    parser.add_argument("--held_out", type=int, default=300, help="questions to evaluate on")
    return parser.parse_args(argv)


def read_questions(package: Any, split: str) -> Iterator[Row]:
    """The questions of a split as prompt rows, in the package's order.

    Args:
        package: the module, with get_<split>_questions() -> (texts, answers, image ids) and get_<split>_image_paths()
            -> {image id: path}.
        split: `train` or `test`.
    """
    texts, answers, images = getattr(package, f"get_{split}_questions")()
    paths = getattr(package, f"get_{split}_image_paths")()
    for text, answer, image in zip(texts, answers, images, strict=True):
        yield {"image": str(paths[image]), "question": text, "answer": answer, "task": task_of(answer)}


def task_of(answer: str) -> str:
    """What a question asks for, told by its answer."""
    return "yes or no" if answer in YES_OR_NO else "shape" if answer in SHAPES else "color"


def spread(rows: Sequence[Row], number: int | None) -> list[Row]:
    """So many rows, spread evenly over all; all of them where no number is given."""
    step = max(1, len(rows) // number) if number else 1
    return list(islice(rows, 0, None, step))[:number]


def write_prompts(folder: Path, numbers: Mapping[str, int]) -> dict[str, Path]:
    """Write so many questions of each split; split -> file."""
    package = import_module("easy_vqa")
    rows = {split: spread(list(read_questions(package, split)), number) for split, number in numbers.items()}
    return {split: write_rows(folder / f"easy_vqa_{split}.jsonl", found) for split, found in rows.items()}


def run_pipeline(out: Path, checkpoint: Path, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Sample, pair, train and evaluate into an empty folder; the figures."""
    prompts = write_prompts(emptied(out), numbers)
    places = ["--prompt-path", prompts["train"], "--checkpoint", checkpoint, "--out-dir", out / "sampled"]
    sample_answers([*map(str, places), *SAMPLE.split()])
    if pair_answers(["--data-dir", str(out / "sampled"), "--save-dir", str(out / "pairs"), *PAIR.split()]):
        raise ValueError(f"no pair came of {numbers['train']} questions, see {out / 'pairs'}: ask more (--asked)")
    meta = out / "pairs" / "meta.json"
    places = ["--model_name_or_path", checkpoint, "--meta_path", meta, "--output_dir", out / "mpo"]
    train([*map(str, places), *TRAIN.split()])
    places = ["--checkpoint", out / "mpo", "--against", checkpoint, "--direct", prompts["test"]]
    report = evaluate(parse_evaluation([*map(str, places), "--out", str(out / "evaluation.json"), *ASK.split()]))
    figures = {"before": report["before"]["direct"], "after": report["direct"], "test": report["comparison"]["direct"]}
    summary = json.loads((out / "pairs" / "summary.json").read_text(encoding="utf-8"))
    outcomes = {name: counted["outcomes"] for name, counted in summary.items()}
    return {"sampled": outcomes, "pairs": lengths_of(meta), **figures}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pipeline once."""
    args = parse_arguments(argv)
    numbers = {"train": args.asked, "test": args.held_out}
    made_of = {"checkpoint": str(args.checkpoint), **numbers}
    folder = keyed(args.work, STAGE, made_of, lambda out: run_pipeline(out, args.checkpoint, numbers))
    print(figures_of(folder))


if __name__ == "__main__":
    enter(main)
