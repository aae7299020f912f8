"""Sampled answers to preference pairs: the second half of the correctness pipeline.

    python tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness_postprocess.py \\
        --data-dir out --save-dir pairs --answer-fix --num-pairs-per-key 15 --max-lines 1200000

Reads every *.jsonl below --data-dir. Files of one name are one data set (sampled at several tile limits, say); pairs
share image, question and answer. Writes below --save-dir:

    raw/<name>_pairs_vqa_correctness_rules.jsonl    right answers against wrong ones
    raw/<name>_pairs_vqa_format_rules.jsonl         right answers against answers that broke the format
    pos_items/<name>.jsonl                          every distinct right answer
    neg_items/<name>.jsonl                          questions that nobody got right, as prompts to sample again
    meta.json                                       ready for training
    summary.json, rejects.jsonl                     what was counted, and the rows that could not be used

The pairs depend on the answers and the flags only, not on the order of rows, the number of processes or of ranks.
Under srun or torchrun the ranks share out the data sets. A finished data set is not done again; when its answers or
the flags have changed, the run stops and asks for --overwrite. The exit code is 1 where no pair came of it all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from internvl_chat.run.entry import Parser, enter
from tools.reasoning_data_pipeline.pairs.conversion import add_conversion_flags, run_conversion
from tools.reasoning_data_pipeline.pairs.correctness import BY_SCORE, CORRECTNESS


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_conversion_flags(parser)
    add = parser.add_argument
    add("--answer-fix", action="store_true", help="en and zh prompts: tidy the last line of chosen answers, no others")
    add("--force", action="store_true", help="accepted for old command lines, without effect: it let ground-truth "
        "texts join as answers")  # fmt: skip
    add("--max-lines", type=int, default=0, metavar="N", help="at most N answers per data set, whole questions only, "
        "a fair sample of them; 0 for all (default: %(default)s)")  # fmt: skip
    add("--by-score", action="store_true", help="of answers that tools/score_steps.py scored: not pairs drawn evenly, "
        "but those whose scores are furthest apart, the best right answer with the worst wrong one first")  # fmt: skip
    add("--use-correctness-cache", action="store_true", help="keep verdicts that were slow to find for the next run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pairs of this rank's data sets and publish what is finished; the exit code."""
    parser = build_parser()
    by_score = parser.parse_args(arguments).by_score
    return run_conversion(BY_SCORE if by_score else CORRECTNESS, parser, arguments)


if __name__ == "__main__":
    enter(main)
