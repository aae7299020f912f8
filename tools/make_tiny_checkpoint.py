"""A tiny InternVL checkpoint in the published InternVL2.5 layout, with random weights and a tokenizer made on the spot.

    python tools/make_tiny_checkpoint.py --out ckpt/tiny-qwen2
    python tools/make_tiny_checkpoint.py --out ckpt/tiny-internlm2 --family internlm2 --vit 6B

Weights are drawn with standard deviation 1/sqrt(fan-in), about 1/sqrt(width): with the 0.02 of large models such
small ones hardly learn to read. The tokenizer is trained on texts of the small visual-reasoning world, or on those of
`--corpus`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.run.entry import Parser, enter


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line; the sizes' defaults make a model of about a million parameters."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold a checkpoint yet")
    parser.add_argument("--family", choices=("qwen2", "internlm2"), default="qwen2", help="language model")
    parser.add_argument("--vit", choices=("300M", "6B"), default="300M", help="form of InternViT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, nargs="+", help="JSONL or text files to train the tokenizer on")
    parser.add_argument("--vocab_size", type=int, default=1024, help="most tokens, without the special ones")
    parser.add_argument("--hidden_size", type=int, default=128, help="width of the language model")
    parser.add_argument("--intermediate_size", type=int, default=352, help="width of its MLP")
    parser.add_argument("--num_hidden_layers", type=int, default=3)
    parser.add_argument("--num_attention_heads", type=int, default=4)
    parser.add_argument("--num_key_value_heads", type=int, default=2)
    parser.add_argument("--vit_hidden_size", type=int, default=96, help="width of InternViT")
    parser.add_argument("--vit_intermediate_size", type=int, default=256)
    parser.add_argument("--vit_num_hidden_layers", type=int, default=2)
    parser.add_argument("--vit_num_attention_heads", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=56, help="side of a tile in pixels")
    parser.add_argument("--patch_size", type=int, default=14)
    parser.add_argument("--max_dynamic_patch", type=int, default=12, help="most tiles of a picture")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors as of `make_tiny_checkpoint`."""
    args = parse_arguments(argv)
    from tools.checkpoints.tiny import make_tiny_checkpoint

    make_tiny_checkpoint(args)


if __name__ == "__main__":
    enter(main)
