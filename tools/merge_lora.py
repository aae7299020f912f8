"""Merge an adapter that training saved alone into its base, in the layout of the base.

python tools/merge_lora.py --adapter work_dirs/run --base ckpt/InternVL2_5-8B --out merged
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig

from internvl_chat.adapters.lora import ADAPTER_FOLDER, add_adapters, load_adapter, merged_weights
from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.model import load_model
from internvl_chat.run.entry import Parser, enter


def merge(checkpoint: Path, base: Path | None, out: Path) -> None:
    """Write base plus adapter to `out`, each weight in the number format that the base has.

    Args:
        checkpoint: folder with `adapter` in it.
        base: folder or hub name of the base; the one that the adapter names when absent.
        out: made when absent.

    Raises:
        FileNotFoundError: there is no adapter, or no base.
        ValueError: they do not fit each other.
    """
    folder = checkpoint / ADAPTER_FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no adapter; --adapter names a checkpoint that was trained with LoRA")
    config = LoraConfig.from_pretrained(str(folder))
    source = local_checkpoint(base or str(config.base_model_name_or_path))
    model = load_model(source, dtype=torch.float32)
    add_adapters(model, config)
    load_adapter(model, checkpoint)
    export_checkpoint(model, source, out, state_dict=merged_weights(model, model.state_dict()))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="checkpoint with an `adapter` folder")
    parser.add_argument("--base", type=Path, help="folder or hub name of what it adapts; default: as it says")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = build_parser().parse_args(argv)
    merge(args.adapter, args.base, args.out)
    print(f"{args.out}: {args.adapter} merged")


if __name__ == "__main__":
    enter(main)
