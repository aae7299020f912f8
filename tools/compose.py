"""An InternVL checkpoint from parts: a language model, a vision tower, and a fresh projector between them.

    python tools/compose.py --llm ckpt/Qwen2.5-0.5B-Instruct --vision ckpt/InternVL2_5-1B --out ckpt/mine
    python tools/compose.py --llm model.gguf --vision_size 4:192:3 --image_size 224 --dtype bfloat16 --out ckpt/mine

The result is in the published layout, with tokens of images, configuration, chat template and remote code, and loads
wherever a saved checkpoint does. Text that it reads gives the logits of the language model alone. Nothing is known of
pictures before the projector has been trained: docs/compose.md. No code that comes with the parts is run. The language
model is in memory once; of the checkpoint with the tower, only the tower is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.model.conversation import TEMPLATES
from internvl_chat.run.entry import Parser, enter


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True, help="language model: folder, hub name or GGUF file")
    tower = parser.add_mutually_exclusive_group(required=True)
    tower.add_argument("--vision", type=Path, help="InternVL or InternViT whose vision tower is taken")
    tower.add_argument("--vision_size", help="layers:width:heads of a tower that is drawn at random, such as 4:192:3")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold a checkpoint yet")
    parser.add_argument("--template", help=f"chat template, if not the language model's: {', '.join(TEMPLATES)}")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="number format of all weights",
    )
    parser.add_argument("--image_size", type=int, help="side of a tile in pixels; default: the tower's, drawn ones 448")
    parser.add_argument("--patch_size", type=int, default=14, help="side of a patch of a drawn tower in pixels")
    parser.add_argument("--max_dynamic_patch", type=int, default=12, help="most tiles of a picture")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors as of `compose`."""
    args = parse_arguments(argv)
    from tools.composing.whole import compose

    compose(args)


if __name__ == "__main__":
    enter(main)
