"""The work of a training step: what one process computes at once, and the FLOPs of it, by which hours are estimated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from internvl_chat.model import InternVLChatConfig
from tools.plan.model_sizes import Parameters


@dataclass(frozen=True)
class StepLoad:
    """Sizes of what one process computes at once: N packed tokens and T tiles."""

    tokens: int
    tiles: int


def expert_width(config: Any) -> int:
    """Width of the MLP of one expert, which GPT-OSS names as others name that of a dense model."""
    return getattr(config, "moe_intermediate_size", config.intermediate_size)


def expert_parameters(config: Any) -> tuple[int, int]:
    """Parameters of a layer's experts, and of those that a token does not pass; zeros where there are none."""
    experts = getattr(config, "num_experts", 0)
    if not experts:
        return 0, 0
    one = 3 * config.hidden_size * expert_width(config)
    return experts * one, (experts - config.num_experts_per_tok) * one


def step_flops(
    count: Parameters, config: InternVLChatConfig, row: StepLoad, *, recompute: bool, reference: bool
) -> float:
    """Matrix-product FLOPs of one packed row: 2 per weight and token, 3 times for a policy, once for a reference.

    With `recompute` a policy runs its forward pass twice, so 4 times.

    Attention adds 4 x width per layer and pair of tokens in the vision tower, half that in the causal language model.
    """
    vision, language = config.vision_config, config.llm_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    tower = row.tiles * (2 * count.vision * patches + 4 * patches**2 * vision.hidden_size * vision.num_hidden_layers)
    layers = language.num_hidden_layers
    active = count.language - layers * expert_parameters(language)[1]
    decoder = 2 * active * row.tokens + 2 * row.tokens**2 * language.hidden_size * layers
    return float((tower + decoder) * ((4 if recompute else 3) + reference))
