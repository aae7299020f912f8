"""Check the data of a training before a GPU is taken: every row as training will read it, and what it would not see.

    python tools/validate.py --meta_path MMPR-v1.1/meta.json --model_name_or_path ckpt/InternVL2_5-8B \
        --max_seq_length 8192 [--eval_meta_path held_out/meta.json] [--num_workers 16] [--output_dir validation]

Takes the data flags of the training itself. Without a checkpoint everything but token lengths is checked. Prints what
is wrong, how often, where and its cure; writes into --output_dir:

    validation.json   verdict, counts and examples by kind of fault, figures per data set
    validation.html   the same with plots, one file without external requests
    findings.jsonl    every single finding: {fault, dataset, file, line, detail}

The exit code is 0 if the data pass, 1 if they do not (an error; with --strict True any finding), 2 if the command
cannot run. With the --max_skipped_share of the training, rows that it would skip pass up to this share. A run that was
stopped goes on where it was when the same command starts again; a finished one starts anew.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from internvl_chat.config_file import parse_flags
from internvl_chat.data.arguments import DataArguments
from internvl_chat.run.entry import enter
from tools.validation.arguments import ValidationArguments


def main(argv: Sequence[str] | None = None) -> int:
    """Check and report; 1 where the data do not pass. Errors as of `parse_flags` and `validate`."""
    logging.basicConfig(level=logging.ERROR)  # what the library warns of is among the findings
    data_args, args = parse_flags((DataArguments, ValidationArguments), sys.argv[1:] if argv is None else argv)
    from tools.validation.run import validate  # with torch, which takes seconds

    return validate(data_args, args)


if __name__ == "__main__":
    enter(main)
