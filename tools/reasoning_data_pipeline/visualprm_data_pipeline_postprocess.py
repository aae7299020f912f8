"""Answers with scored steps to training data: PRM and ORM conversations, and preference pairs.

    python tools/reasoning_data_pipeline/visualprm_data_pipeline_postprocess.py --data-dir out --save-dir prm \\
        --mc-threshold 0.0 --early-stop --include-orm-data

Reads every *.jsonl below --data-dir, rows {image, question, answer, response, steps_with_score: [{step, score,
num_mc_correct, num_mc_total}]}. Files of one name are one data set. Writes below --save-dir:

    raw/<name>_prm.jsonl                 one conversation per answer, a turn per step: "+" above the threshold, else "-"
    raw/<name>_pairs_step_scores.jsonl   answers to one question, told apart by their first step of unequal score
    meta.json, prm_meta.json             the pairs, and the conversations, ready for training
    prm_best_meta.json                   by --keep-share: the conversations that teach most, so much of each data set
    summary.json, rejects.jsonl          what was counted, and the rows that could not be used

Conversations keep the `scores` of their steps, so that a training can choose other thresholds or learn them as they
are: `train_mpo --loss_type prm`. A step that was not measured has no label: its conversation ends before it, unless a
later one was measured; then it stays, its judgement empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from internvl_chat.run.entry import Parser, enter
from tools.reasoning_data_pipeline.pairs.conversion import add_conversion_flags, run_conversion
from tools.reasoning_data_pipeline.pairs.informative import add_selection_flag, keep_best
from tools.reasoning_data_pipeline.pairs.steps import STEP_SCORES


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_conversion_flags(parser)
    add = parser.add_argument
    add("--mc-threshold", type=float, default=0.0, help="a step is right if its score is above (default: %(default)s)")
    add("--early-stop", action="store_true", help="end a conversation with its first wrong step")
    add("--include-orm-data", action="store_true", help="add a conversation of one turn that judges the whole answer")
    add("--raw-question", action="store_true", help="show a critic the question as in the prompt file, not as it was "
        "asked with how to answer")  # fmt: skip
    add("--min-gap", type=float, default=0.25, help="scores that differ by no more are equal: they are estimates, of "
        "standard error 0.125 at 16 continuations (default: %(default)s)")  # fmt: skip
    add_selection_flag(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert this rank's data sets and publish what is finished; the exit code."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    code = run_conversion(STEP_SCORES, parser, arguments)
    if code == 0 and args.keep_share is not None:
        print(f"{keep_best(args.save_dir / 'prm_meta.json', args.keep_share)}: the best {args.keep_share:.0%} of each")
    return code


if __name__ == "__main__":
    enter(main)
