"""The language model in 4 bits, for adapters to be trained on: QLoRA (arXiv 2305.14314), by bitsandbytes.

The weights of its linear layers are rounded to NF4, in blocks of 64 whose constants have 8 bits themselves (double
quantization), and take part in each product in the number format of the run. All else keeps that format: embeddings and
LM head, as QLoRA's authors have it; norms, which compute in float32 by themselves (there and in peft's
`prepare_model_for_kbit_training` their weights become float32 too); vision tower and projector, with adapters in the
tower or without, as LLaVA's QLoRA keeps them. The reference of a run is the rounded model; adapters are merged into the
weights of the checkpoint, never into rounded ones.

    python -m internvl_chat.train_mpo ... --use_llm_lora 64 --load_in_4bit True
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, is_bitsandbytes_available

from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_model
from internvl_chat.model.upstream import should_convert_module

NOT_ROUNDED = ["vision_model", "mlp1", "language_model.lm_head", "language_model.output"]
BLOCK = 64  # weights of a common constant
BYTES_PER_WEIGHT = 1 / 2 + 1 / BLOCK + 4 / (BLOCK * 256)  # 4 bits, 8 for a block, 32 for 256 constants of blocks


def check_four_bits(config: InternVLChatConfig) -> None:
    """Refuse, before anything is loaded, what cannot be rounded here.

    Raises:
        ModuleNotFoundError: bitsandbytes is not installed.
        ValueError: as of `check_experts`.
    """
    check_experts(config)
    if not is_bitsandbytes_available():
        raise ModuleNotFoundError("--load_in_4bit True needs bitsandbytes: pip install bitsandbytes==0.50.2")


def check_experts(config: InternVLChatConfig) -> None:
    """Raise ValueError where most weights are those of experts, which are no linear layers."""
    if getattr(config.llm_config, "num_experts", 0):
        raise ValueError(
            "--load_in_4bit True: bitsandbytes rounds linear layers, and experts are none, so that most of this model "
            "would stay as it is; train adapters without it, under --deepspeed zero_stage3_config.json or --fsdp True"
        )


def four_bit_weights(model: InternVLChatModel) -> int:
    """How many weights of a model, on any device, `load_four_bits` rounds; ValueError of `check_experts`."""
    check_experts(model.config)
    layers = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
    return sum(layer.weight.numel() for name, layer in layers.items() if should_convert_module(name, NOT_ROUNDED))


def load_four_bits(path: Path, *, dtype: torch.dtype, **options: Any) -> InternVLChatModel:
    """Load a checkpoint as `load_model` does, rounded weight by weight: on the GPU of this process where there is one.

    Args:
        path: folder of the checkpoint.
        dtype: of products and of what is not rounded.
        options: further ones of `load_model`.

    Raises:
        FileNotFoundError, ValueError: as of `load_model`, and of `_settle_on_cpu`.
    """
    rounding = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=NOT_ROUNDED,  # of 4 bits too, whatever the name
    )
    model = load_model(path, dtype=dtype, quantization_config=rounding, **options)
    # Saved are whole weights or adapters: nothing may take the model for a checkpoint of 4 bits.
    model.hf_quantizer.remove_quantization_config(model)
    if next(model.parameters()).device.type == "cpu":
        _settle_on_cpu(model, path)
    return model


def _settle_on_cpu(model: nn.Module, path: Path) -> None:
    """Keep to what bitsandbytes 0.50 computes rightly on a CPU.

    Raises:
        ValueError: rows of weights are no whole blocks, whose constants it would mix up.
    """
    for name, layer in model.named_modules():
        if type(layer).__name__ != "Linear4bit":
            continue
        # Else the passes of the reference repack the weights for AVX512, and their products lose the gradient.
        layer.support_avx512bf16_for_cpu = False
        if layer.in_features % BLOCK:
            raise ValueError(
                f"{path}: --load_in_4bit True on a CPU needs rows of weights in whole blocks of {BLOCK}, "
                f"{name} has {layer.in_features}; take a GPU, or adapters without it"
            )


def is_in_four_bits(model: nn.Module) -> bool:
    """Whether `load_four_bits` made this model."""
    return getattr(model, "is_loaded_in_4bit", False)
