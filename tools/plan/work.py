"""The FLOPs of a training step, by which hours are estimated."""

from __future__ import annotations

from typing import Any

from internvl_chat.model import InternVLChatConfig
from internvl_chat.packed.memory import StepLoad, expert_width
from tools.plan.model_sizes import Parameters


def expert_parameters(config: Any) -> tuple[int, int]:
    """Parameters of a layer's experts, and of those that a token does not pass; zeros where there are none."""
    experts = getattr(config, "num_experts", 0)
    if not experts:
        return 0, 0
    one = 3 * config.hidden_size * expert_width(config)
    return experts * one, (experts - config.num_experts_per_tok) * one


def step_flops(
    count: Parameters, config: InternVLChatConfig, row: StepLoad, *, recompute: float, reference: bool
) -> float:
    """Matrix-product FLOPs of one packed row: 2 per weight and token, 3 times for a policy, once for a reference.

    A share `recompute` of a policy's layers runs its forward pass twice: all or none with True or False.

    Attention adds 4 x width per layer and pair of tokens in the vision tower, half that in the causal language model.
    """
    vision, language = config.vision_config, config.llm_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    tower = row.tiles * (2 * count.vision * patches + 4 * patches**2 * vision.hidden_size * vision.num_hidden_layers)
    layers = language.num_hidden_layers
    active = count.language - layers * expert_parameters(language)[1]
    decoder = 2 * active * row.tokens + 2 * row.tokens**2 * language.hidden_size * layers
    return float((tower + decoder) * (3 + recompute + reference))
