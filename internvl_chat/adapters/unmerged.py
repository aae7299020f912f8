"""Weights as the original's LoRA training leaves them: base and adapters under peft's names, in one checkpoint.

    language_model.base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight    (out, in)
    language_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight  (rank, in)
    language_model.base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight  (out, rank)

The original wraps the language model, the vision tower, or both (`use_llm_lora` and `use_backbone_lora` in
config.json), always with alpha = 2 x rank. Older versions of peft have no `base_layer` in the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SCALE = 2.0  # alpha / rank
_ADAPTER = re.compile(r"\.lora_([AB])\.\w+\.weight$")
_WRAPPED = re.compile(r"^(language_model|vision_model)\.base_model\.model\.")


def is_unmerged(names: Iterable[str]) -> bool:
    """Whether there are adapters among these names of weights."""
    return any(map(_ADAPTER.search, names))


def plain_name(name: str) -> str:
    """The name of a weight in a checkpoint without adapters."""
    return _WRAPPED.sub(r"\1.", name).replace(".base_layer.", ".")


def merge_adapters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model that the adapters made: W + 2 B A by plain names, each in the number format of W.

    Raises:
        ValueError: half of an adapter, or one without a weight that it fits.
    """
    merged = {plain_name(name): weight for name, weight in weights.items() if not _ADAPTER.search(name)}
    adapters: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        if found := _ADAPTER.search(name):
            adapters.setdefault(plain_name(name[: found.start()]) + ".weight", {})[found[1]] = weight
    for name, halves in adapters.items():
        base = merged.get(name)
        if base is None or len(halves) < 2 or base.shape != (halves["B"].shape[0], halves["A"].shape[1]):
            shapes = {half: tuple(weight.shape) for half, weight in sorted(halves.items())}
            fits = "no weight" if base is None else f"a weight of {tuple(base.shape)}"
            raise ValueError(f"{name}: {fits} for adapters of {shapes}; take all weight files of one checkpoint")
        change = SCALE * halves["B"].to(torch.float32) @ halves["A"].to(torch.float32)
        merged[name] = (base.to(torch.float32) + change).to(base.dtype)
    return merged
