"""Rows of VisualProcessBench from answers of the small world, whose right steps are known.

    python data/make_process_rows.py --answers work_dirs/quickstart/data/held_out_pairs.jsonl \
        --out work_dirs/quickstart/process/slips.jsonl
    python data/make_process_rows.py --answers work_dirs/steps/held_out_en_prompts.jsonl --policy-model ckpt/tiny-base \
        --out work_dirs/quickstart/process/sampled.jsonl

Answers are sampled ones (of `mpo sample`, or of `mpo sample-steps` with its estimates of every step) to the world's own
prompts, or the generator's pairs. Then `tools/evaluate_critic.py --benchmark` measures a critic on them, and with
`--scores` naming the same file the estimates.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from internvl_chat.records.durable import json_line, write_atomically
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import Source, parse_row
from internvl_chat.run.entry import Parser, enter
from tools.visual_reasoning.process_rows import process_rows


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, nargs="+", required=True, help="JSONL files of answers, or of pairs")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--policy-model", default="", help="who gave the sampled answers")
    return parser.parse_args(argv)


def make_process_rows(args: argparse.Namespace) -> Counter[str]:
    """Write the rows of `args` (of `parse_arguments`) and count their steps.

    Raises:
        FileNotFoundError: a file is not there.
        RecordError: a row has no known right steps, or no answer.
    """
    counts = Counter[str]()
    write_atomically(args.out, (json_line(row) for row in _counted(args, counts)))
    return counts


def _counted(args: argparse.Namespace, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    for file in args.answers:
        lines = JsonlFile(file)
        for index in range(len(lines)):
            line, line_no = lines[index]
            where = Source(str(file), line_no)
            for row in process_rows(parse_row(line, *where), where, args.policy_model):
                labels = row["response"]["process_correctness"]
                counts.update(rows=1, right=labels.count(1), wrong=labels.count(-1))
                yield row


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_arguments(argv)
    counts = make_process_rows(args)
    print(f"{args.out}: {counts['rows']} answers, {counts['right']} right steps, {counts['wrong']} wrong ones")


if __name__ == "__main__":
    enter(main)
