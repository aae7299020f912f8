"""Convert a checkpoint between the published InternVL layout and the `-hf` layout of transformers' own InternVL class.

    python tools/convert.py --checkpoint work_dirs/mpo --out work_dirs/mpo-hf       published -> -hf
    python tools/convert.py --checkpoint ckpt/InternVL3-1B-hf --out ckpt/InternVL3-1B      -hf -> published

The layout found decides the direction. Weights keep their values and number format, bit for bit. Besides them are
written: config, tokenizer, generation settings; to `-hf` the processor with chat template and image settings, so that
`AutoProcessor` and `AutoModelForImageTextToText` load the folder; to the published layout the remote code. Only
safetensors are read and no code of the checkpoint is run. The model is in memory once, on the CPU. InternLM2 has no
class in transformers, hence no `-hf` layout.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.run.entry import Parser, enter


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder or hub name, of either layout")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold a checkpoint yet")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert, and say in which direction."""
    args = parse_arguments(argv)
    from tools.checkpoints.conversion import convert

    print(f"{args.out}: {convert(args.checkpoint, args.out)}")


if __name__ == "__main__":
    enter(main)
