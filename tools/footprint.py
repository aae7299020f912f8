"""What a training will need, before it starts: steps, tokens, memory per GPU, hours. `DRY_RUN=1` calls it.

    python -m tools.footprint --gpus 64 -- --model_name_or_path ckpt/InternVL2_5-8B --meta_path MMPR-v1.1/meta.json \
        --output_dir run --bf16 True --deepspeed zero_stage1_config.json --grad_checkpoint True

Takes the flags of `internvl_chat.train_mpo` behind `--`. The checkpoint need not be here if it is a published one.
Nothing is loaded: parameters are counted on the meta device, memory by formulas, those of a row's activations in
`internvl_chat.packed.memory`. Exit code 1: the run cannot start, since it does not fit or something is missing.
`--check`, by which `launch.sh` asks before it takes the GPUs, says nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from internvl_chat.run.entry import Parser, at_least, enter


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gpus", type=at_least(1), default=1, help="processes of the run")
    add("--gpus_per_node", type=at_least(1), default=8)
    add("--gpu_memory", type=float, help="GiB of one GPU; default: of the one that is seen here, else 80")
    add("--check", action="store_true", help="say nothing unless the run cannot start; memory only of a known GPU")
    add(
        "--tflops", type=float, default=400.0, help="that a GPU reaches; default 400: 40 %% of an H100's dense bfloat16"
    )
    add("--tokens_per_pair", type=int, default=2700, help="usual packed tokens: an assumption, change it for your data")
    add("--tiles_per_pair", type=int, default=7, help="usual tiles: likewise")
    add("flags", nargs=argparse.REMAINDER, help="behind --: those of internvl_chat.train_mpo")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the estimate; SystemExit with 1 where the run cannot start: something is missing, or it does not fit."""
    own = build_parser().parse_args(argv)
    from tools.plan.estimate import tell

    tell(own)


if __name__ == "__main__":
    enter(main)
