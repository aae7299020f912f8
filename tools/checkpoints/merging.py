"""Adapters merged into the weights that they adapt, in the layout of the base; `tools/merge_lora.py` asks."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig
from safetensors.torch import load_file

from internvl_chat.adapters.lora import ADAPTER_FOLDER, add_adapters, load_adapter, merged_weights, saved_critic
from internvl_chat.adapters.unmerged import is_unmerged, merge_adapters
from internvl_chat.checkpoint.export import CONFIG_NAME, copy_companions, export_checkpoint, stored_dtypes, write_json
from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.checkpoint.output import TOOL_CURE, check_apart, writing
from internvl_chat.model import load_model
from internvl_chat.model.json_object import read_object
from tools.checkpoints.files import SHARD_SIZE

KEPT = "Base and adapter are as they were"
ADAPTER_CONFIG = "adapter_config.json"  # as peft calls it


def merge(checkpoint: Path, base: Path | None, out: Path) -> None:
    """Write base plus adapter to `out`, each weight in the number format that the base has.

    Args:
        checkpoint: folder with `adapter` in it.
        base: folder or hub name of the base; the one that the adapter names when absent.
        out: made when absent.

    Raises:
        FileNotFoundError: there is no adapter, or no base.
        ValueError: they do not fit each other, or `out` is the folder of one of them.
    """
    folder = checkpoint / ADAPTER_FOLDER
    if not folder.is_dir() and is_unmerged(stored_dtypes(checkpoint)):
        merge_whole(checkpoint, out)
        return
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no adapter; --adapter names a checkpoint that was trained with LoRA")
    read_object(folder / ADAPTER_CONFIG, "save the adapter again, or take an older checkpoint")
    config = LoraConfig.from_pretrained(str(folder))
    source = local_checkpoint(base or str(config.base_model_name_or_path))
    check_apart(out, source, ("--out", "--base"))
    check_apart(out, checkpoint, ("--out", "--adapter"))
    model = load_model(source, dtype=torch.float32)
    add_adapters(model, config)
    load_adapter(model, checkpoint)
    model.config.critic = saved_critic(checkpoint) or model.config.critic
    with writing(out, KEPT, TOOL_CURE):
        export_checkpoint(model, source, out, state_dict=merged_weights(model, model.state_dict()))


def merge_whole(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint of the original, whose weights have their adapters beside them, without adapters.

    Raises:
        FileNotFoundError: there is no config.json.
        FileExistsError: `out` holds a checkpoint already.
        ValueError: the adapters do not fit the weights.
    """
    config = read_object(checkpoint / CONFIG_NAME, "take it from the base of this training")
    if (out / CONFIG_NAME).exists():
        raise FileExistsError(f"{out} holds a checkpoint already; name another folder or delete it")
    weights = {name: weight for path in checkpoint.glob("*.safetensors") for name, weight in load_file(path).items()}
    out.mkdir(parents=True, exist_ok=True)
    merged = merge_adapters(weights)
    with writing(out, KEPT, TOOL_CURE):
        save_torch_state_dict(merged, out, max_shard_size=SHARD_SIZE)
    copy_companions(checkpoint, out)
    write_json(out / CONFIG_NAME, {**config, "use_llm_lora": 0, "use_backbone_lora": 0})
