"""Merge an adapter that training saved alone into its base, in the layout of the base.

    python tools/merge_lora.py --adapter work_dirs/run --base ckpt/InternVL2_5-8B --out merged

A checkpoint that the original trained with LoRA and did not merge holds its base itself:

    python tools/merge_lora.py --adapter work_dirs/internvl_chat_v2_5_lora --out merged
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.run.entry import Parser, enter


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--adapter", type=Path, required=True, help="checkpoint with an `adapter` folder, or adapters in it"
    )
    parser.add_argument("--base", type=Path, help="folder or hub name of what it adapts; default: as it says")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    from tools.checkpoints.merging import merge

    merge(args.adapter, args.base, args.out)
    print(f"{args.out}: {args.adapter} merged")


if __name__ == "__main__":
    enter(main)
