"""LoRA, low-rank adapters in place of full weights (arXiv 2106.09685), by peft: language model, vision tower or both.

All other weights are frozen, so the model with its adapters off is the reference of preference optimization, and no
second model is needed. A checkpoint is saved merged, in the layout of its source, or as the adapter alone, in the
layout of peft.

    python -m internvl_chat.train_mpo ... --use_llm_lora 16 --use_backbone_lora 16
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from internvl_chat.model import InternVLChatModel
from internvl_chat.model.json_object import read_object
from internvl_chat.model.upstream import LoraLayer

ADAPTER_FOLDER = "adapter"  # inside a checkpoint, where transformers does not take the whole for an adapter
WEIGHTS_NAME = "adapter_model.safetensors"
CRITIC_NAME = "critic.json"  # beside them: `critic` of the configuration, which peft's files have no place for
NAME = "default"  # peft's, of the only adapter
PEFT_PREFIX = "base_model.model."  # of every name in peft's files
LANGUAGE_LAYERS = r"language_model\..*\.([qkvo]_proj|(gate|up|down)_proj|wqkv|wo|w[123])"
BACKBONE_LAYERS = r"vision_model\.encoder\..*\.(qkv|proj|fc1|fc2)"


def lora_config(llm_rank: int, backbone_rank: int, base: str | Path) -> LoraConfig:
    """Adapters in all linear layers of attention and MLP, of the strength alpha = 2 x rank as the original has it.

    Args:
        llm_rank: in the language model, 0 for none.
        backbone_rank: in the vision tower, 0 for none.
        base: the checkpoint that is adapted; peft's files name it.
    """
    parts = [layers for layers, rank in ((LANGUAGE_LAYERS, llm_rank), (BACKBONE_LAYERS, backbone_rank)) if rank]
    rank = llm_rank or backbone_rank
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="|".join(parts),
        rank_pattern={r"encoder\..*": backbone_rank},
        alpha_pattern={r"encoder\..*": 2 * backbone_rank},
        base_model_name_or_path=str(base),
    )


def add_adapters(model: InternVLChatModel, config: LoraConfig, dtype: torch.dtype | None = None) -> None:
    """Put adapters into the model, at first without effect, and freeze everything else.

    Args:
        model: on any device; on the meta device adapters have no memory either.
        config: of `lora_config`.
        dtype: of the adapters, that of the weights they adapt when absent. Optimizers that keep no weights of their
            own need float32.
    """
    on_meta = next(model.parameters()).is_meta
    inject_adapter_in_model(config, model, NAME, low_cpu_mem_usage=on_meta)
    for parameter in model.parameters():
        if parameter.requires_grad and dtype is not None:
            parameter.data = parameter.data.to(dtype)


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers with an adapter by their names; none in a model without."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before `add_adapters`, in evaluation mode.

    peft's own switch also takes the adapters out of training, which a graph that waits for its backward pass must not
    see.
    """
    was_training, layers = model.training, adapted_layers(model).values()
    model.eval()
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        model.train(was_training)
        for layer in layers:
            layer._disable_adapters = False


def merged_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The weights of an adapted model under the names of one without adapters, W + alpha / rank B A, on the CPU.

    Args:
        model: with adapters.
        weights: its state, gathered where the model holds only shards.
        base: state of the model without adapters, for W where the adapted one holds rounded weights.
    """
    own = {name.replace(".base_layer.", "."): weight for name, weight in weights.items() if ".lora_" not in name}
    merged = own if base is None else dict(base)
    for name, layer in adapted_layers(model).items():
        down, up = (weights[f"{name}.lora_{side}.{NAME}.weight"].float() for side in "AB")
        weight = merged[f"{name}.weight"]
        total = weight.float() + layer.scaling[NAME] * (up @ down).to(weight.device)
        merged[f"{name}.weight"] = total.to(weight.dtype).cpu()
    return merged


def save_adapter(model: InternVLChatModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the adapter in peft's layout, and of a critic what its configuration says of it.

    Args:
        model: with adapters.
        weights: as of `merged_weights`.
        folder: of the checkpoint; the files go to `adapter` in it.
    """
    target = folder / ADAPTER_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    adapter = {name: weight for name, weight in weights.items() if ".lora_" in name}
    named = {PEFT_PREFIX + name.replace(f".{NAME}.", "."): weight.contiguous() for name, weight in adapter.items()}
    save_file(named, target / WEIGHTS_NAME, metadata={"format": "pt"})
    configs: Any = model.peft_config
    configs[NAME].save_pretrained(target)
    if model.config.critic:
        (target / CRITIC_NAME).write_text(json.dumps(model.config.critic, indent=2) + "\n")


def saved_critic(folder: Path) -> dict[str, Any] | None:
    """`critic` of the configuration that an adapter was trained under; None of a model that answers questions.

    Raises:
        ValueError: the file beside the adapter is no JSON object.
    """
    path = folder / ADAPTER_FOLDER / CRITIC_NAME
    return read_object(path, "save the adapter again") if path.is_file() else None


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Read the weights of an adapter into a model that has one of its shapes.

    Args:
        model: with adapters.
        folder: of the checkpoint, with `adapter` in it.

    Raises:
        FileNotFoundError: there is no adapter.
        ValueError: its layers or ranks are not those of the model.
    """
    path = folder / ADAPTER_FOLDER / WEIGHTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no adapter to continue with; was this run trained with --use_llm_lora?")
    found = {name.removeprefix(PEFT_PREFIX): weight for name, weight in load_file(path).items()}
    own = {name.replace(f".{NAME}.", "."): p for name, p in model.named_parameters() if ".lora_" in name}
    differing = sorted(found.keys() ^ own.keys()) or [k for k in own if own[k].shape != found[k].shape]
    if differing:
        raise ValueError(f"{path}: {len(differing)} weights differ in name or rank, {differing[0]} first: same ranks?")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(found[name])
