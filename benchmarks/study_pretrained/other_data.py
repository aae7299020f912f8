"""Questions and pictures that others made, as prompts: those of the package `easy-vqa`.

    pip install easy-vqa
    python -m benchmarks.study_pretrained.other_data --split test --number 300 --out work_dirs/easy_vqa

Writes easy_vqa_<split>.jsonl, rows {"image", "question", "answer", "task"}, for `tools/evaluate.py --direct` and the
samplers. The pictures stay where the package has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.study.files import Row, write_rows
from internvl_chat.run.entry import Parser, enter

SPLITS = ("train", "test")
YES_OR_NO = ("yes", "no")
SHAPES = ("circle", "rectangle", "triangle")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--number", type=int, help="questions to take, spread over all; default all")
    return parser.parse_args(argv)


def read_questions(package: Any, split: str) -> Iterator[Row]:
    """The questions of a split as prompt rows, in the package's order.

    Args:
        package: the module, with get_<split>_questions() -> (texts, answers, image ids) and get_<split>_image_paths()
            -> {image id: path}.
        split: one of SPLITS.
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


def main(argv: Sequence[str] | None = None) -> None:
    """Write the prompts."""
    args = parse_arguments(argv)
    rows = spread(list(read_questions(import_module("easy_vqa"), args.split)), args.number)
    args.out.mkdir(parents=True, exist_ok=True)
    written = write_rows(args.out / f"easy_vqa_{args.split}.jsonl", rows)
    print(f"{written}: {len(rows)} questions")


if __name__ == "__main__":
    enter(main)
