"""VisualPRM (arXiv 2503.10291), sampling half: answers as steps, each scored by Monte-Carlo continuation.

    python -u tools/reasoning_data_pipeline/visualprm_data_pipeline.py --checkpoint OpenGVLab/InternVL2_5-8B \\
        --prompt-path prompts.jsonl --out-dir sampled --num-mc-sequences 16 --dynamic --max-num 12

Prompts are {"image", "question", "answer"}, or what the correctness pipeline sampled: a row that has a `response`
already is scored as it is (with --num-return-sequences 1). Writes
<out-dir>/<checkpoint>/max_tiles_<max-num>/<prompt file>: image, question, answer, response and
steps_with_score: [{step, score, num_mc_correct, num_mc_total}]. The score of step i is the share of right answers among
the continuations of steps 1..i; undecided ones do not count. All steps of one level of many answers are one batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from internvl_chat.run.entry import enter
from tools.reasoning_data_pipeline.sampling.arguments import sampling_parser
from tools.reasoning_data_pipeline.sampling.pipeline import Pipeline, run_pipeline
from tools.reasoning_data_pipeline.sampling.step_scores import sample


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = sampling_parser(__doc__, num_samples=4, version="en")
    group = parser.add_argument_group("steps")
    group.add_argument("--num-mc-sequences", type=int, default=16, help="continuations per step; default 16")
    group.add_argument("--max-steps", type=int, default=12, help="join the steps of an answer to so many; default 12")
    group.add_argument(
        "--early-stop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="do not measure the steps behind one that no continuation saved",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where no row was made."""
    args = build_parser().parse_args(arguments)
    if args.num_mc_sequences < 1 or args.max_steps < 1:
        raise ValueError(f"--num-mc-sequences {args.num_mc_sequences}, --max-steps {args.max_steps}: at least 1 each")
    own = {name: getattr(args, name) for name in ("num_mc_sequences", "max_steps", "early_stop")}
    samples = max(args.num_return_sequences, args.num_mc_sequences)
    return run_pipeline(Pipeline("visualprm", sample, True, samples, own), args)


if __name__ == "__main__":
    enter(main)
