"""MPO training: the command.

    python -m internvl_chat.train_mpo --model_name_or_path ckpt/InternVL2_5-8B --meta_path MMPR-v1.1/meta.json \
        --output_dir work_dirs/internvl2_5_8b_mpo --bf16 True --deepspeed zero_stage1_config.json
    torchrun --nproc_per_node 8 -m internvl_chat.train_mpo examples/full.yaml --learning_rate 2e-6

All flags of the published launchers, or a YAML or JSON file of them, which flags after it override. `--help` prints
those that a user sets, `--help all` the rest of transformers' too. What a training does stands in `training.py`, which
is loaded with torch and transformers when there is something to train.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from internvl_chat.run.entry import enter
from internvl_chat.training_help import help_text, wants_help

HELD_OUT = "tools.evaluation.held_out:open_held_out"
"""Asks and judges --eval_prompts. By name, for the library imports no engine and no answer check: here both meet."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a training, or print its flags.

    Args:
        argv: flags without the program's name, the path of a YAML or JSON file of them in front; None for the
            command line.

    Raises:
        ValueError, FileNotFoundError: a flag, the checkpoint or the mixture is not usable; said before the first step.
        FloatingPointError: the loss is not finite; names the rows.
        Finding: answers to --eval_prompts got worse.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if wants_help(words):
        sys.stdout.write(help_text())
        return
    from internvl_chat.training import train

    train(words, HELD_OUT)


if __name__ == "__main__":
    enter(main)
