"""DropoutNTP: the start of a good answer, continued without the image, is a rejected one (arXiv 2411.10442, 3.2).

    python -u tools/reasoning_data_pipeline/mmpr_data_pipeline_dropout_ntp.py --checkpoint OpenGVLab/InternVL2_5-8B \\
        --prompt-path chosen.jsonl --out-dir sampled --num-return-sequences 1 --start-ratio 0.5 --dynamic --max-num 12

Prompts are {"image", "question", "chosen", "rejected": null}, or have a "video", whose frames are all left out. The
kept part ends at a word boundary, or at a character where the script has no spaces, and what follows is joined to it
exactly. A row of images without `chosen` first gets one, generated with them. Writes the rows with their `rejected` to
<out-dir>/<checkpoint>/<prompt file>; continuations equal to the chosen answer are left out and counted. A `rejected`
that a row brought is kept as `rejected_orig`.
"""

from __future__ import annotations

from collections.abc import Sequence

from internvl_chat.run.entry import enter
from tools.reasoning_data_pipeline.answers.steps import answer_prefix
from tools.reasoning_data_pipeline.sampling.arguments import sampling_parser
from tools.reasoning_data_pipeline.sampling.dropout import sample
from tools.reasoning_data_pipeline.sampling.pipeline import Pipeline, run_pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where no row was made."""
    parser = sampling_parser(__doc__, num_samples=1, version=None)
    group = parser.add_argument_group("DropoutNTP")
    group.add_argument("--start-ratio", type=float, default=0.5, help="share of the chosen answer that is kept")
    group.add_argument("--load-image", action="store_true", help="keep the image after all")
    args = parser.parse_args(arguments)
    answer_prefix("", args.start_ratio)  # an impossible ratio is known now, not at the first row
    own = {"start_ratio": args.start_ratio, "load_image": args.load_image}
    return run_pipeline(Pipeline("dropout_ntp", sample, False, args.num_return_sequences, own), args)


if __name__ == "__main__":
    enter(main)
