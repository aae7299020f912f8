"""Preference pairs from answers that a reward model has scored, or that a judge has compared.

    python tools/reasoning_data_pipeline/reward_pairs.py --data-dir scored --save-dir pairs --min-margin 0.2

Reads every *.jsonl below --data-dir; files of one name are one data set. A row is of one of these kinds, besides its
`image` and `question`:

    {"response": "...", "reward": 0.7}           one answer, as the sampling pipeline writes it, with its reward, or
                                                 with its `score` of tools/score_steps.py
    {"responses": ["...", "..."], "winner": 0}   what a judge preferred, by place; null where none is better

Two answers to a question whose rewards are at least --min-margin apart make a pair; equal answers have the mean of
their rewards. A winner makes a pair with every other answer of its row. Writes below --save-dir:

    raw/<name>_pairs_rewards.jsonl  the pairs, with both rewards
    meta.json                       the mixture of them, ready for training
    summary.json, rejects.jsonl     what was counted, and the rows that could not be used
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from internvl_chat.run.entry import Parser, enter
from tools.reasoning_data_pipeline.pairs.conversion import add_conversion_flags, run_conversion
from tools.reasoning_data_pipeline.pairs.rewards import REWARDS


def margin(text: str) -> float:
    """Type of --min-margin: a difference, which has no sign."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_conversion_flags(parser)
    add = parser.add_argument
    add("--min-margin", type=margin, default=0.0, help="least difference of rewards (default: any)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert this rank's data sets and publish what is finished; the exit code."""
    return run_conversion(REWARDS, build_parser(), arguments)


if __name__ == "__main__":
    enter(main)
