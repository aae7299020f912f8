"""A packed batch through a model: the sequence log-probs of every answer, by the policy and by the reference alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from internvl_chat.model import InternVLChatModel
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.attention import ATTENTION_NAME, register_attention
from internvl_chat.packed.logps import install_logps_head, sequence_logps
from internvl_chat.packed.packing import PackedPairs, pack_batch
from internvl_chat.packed.varlen import varlen_refusal


@dataclass(frozen=True)
class PairLogps:
    """Sequence log-probs of B pairs.

    Attributes:
        chosen: (B,) float64 sum of log p over the answer's tokens, in nats.
        rejected: (B,) likewise, None in fine-tuning.
        chosen_lengths: (B,) supervised tokens.
        rejected_lengths: (B,) likewise, None in fine-tuning.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor | None
    chosen_lengths: torch.Tensor
    rejected_lengths: torch.Tensor | None


def use_shared_prefix(model: InternVLChatModel) -> None:
    """Switch the language model to packed rows: attention and LM head. Do it before any engine wraps the model.

    Generation with this model object needs `set_attn_implementation("sdpa")` again, "eager" for GPT-OSS.

    Raises:
        ValueError: its attention does more than the packed one computes.
    """
    check_attention(model.language_model)
    register_attention()
    model.language_model.set_attn_implementation(ATTENTION_NAME)
    install_logps_head(model.language_model)


def check_attention(language_model: PreTrainedModel) -> None:
    """Refuse layers of other kinds and capped scores, which packed rows would ignore in silence, and empty windows."""
    config = language_model.config
    others = sorted({*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"})
    if getattr(config, "attn_logit_softcapping", None):
        others.append("attn_logit_softcapping")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < 1:
        others.append(f"sliding_window {window}")
    if others:
        raise ValueError(
            f"{config.model_type} has {', '.join(others)}, which training on packed rows does not compute; "
            "it trains InternLM2, InternLM3, Llama, Qwen2, Qwen3 and GPT-OSS, dense and with experts"
        )


def kernel_refusals(language_model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Which kinds of layers are attended to in groups, not by the variable-length kernel, and why."""
    sinks = any(name.endswith(".sinks") for name, _ in language_model.named_parameters())
    kinds = sorted(set(getattr(language_model.config, "layer_types", None) or ["full_attention"]))
    refusals = [varlen_refusal(device, dtype, windowed=k == "sliding_attention", with_sinks=sinks) for k in kinds]
    return [f"{kind}: {refusal}" for kind, refusal in zip(kinds, refusals, strict=True) if refusal]


def packed(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with `packed`: as the collator made it, or made here of a batch that was only padded."""
    if "packed" in batch:
        return batch
    device = batch["pixel_values"].device
    on_cpu = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in pack_batch(on_cpu).items()}


def answer_logps(model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """Log-probs (A,) of the distinct answers of a packed batch, float64 nats; vision tower and prompts run once.

    Args:
        model: the policy or the reference, wrapped or not, switched by `use_shared_prefix`.
        batch: `packed`, `pixel_values` (T, 3, H, W) uint8 or normalised, `image_flags` (T,).
    """
    row: PackedPairs = batch["packed"]
    logps = model(
        pixel_values=batch["pixel_values"],
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        image_flags=batch["image_flags"],
        shared_prefix=row.layout,
        head_labels=row.labels[None],
        use_cache=False,
    ).logits[0]
    return sequence_logps(logps, row.answer_ids, len(row.lengths))


def pair_logps(logps: torch.Tensor, row: PackedPairs) -> PairLogps:
    """Deal the log-probs (A,) of a packed row's answers out to its pairs."""
    sides, lengths = logps[row.pair_answers], row.lengths[row.pair_answers]  # (2, B), or (1, B) in fine-tuning
    if len(sides) == 1:
        return PairLogps(sides[0], None, lengths[0], None)
    return PairLogps(sides[0], sides[1], lengths[0], lengths[1])


def idle_batch(model: InternVLChatModel, device: torch.device) -> dict[str, Any]:
    """The smallest batch that runs every module, for a rank without a usable row: a blank tile, a supervised token."""
    size = model.config.force_image_size or model.config.vision_config.image_size
    tokens = [model.img_context_token_id] * model.num_image_token + [0, 0]
    batch = {
        "chosen_input_ids": torch.tensor([tokens]),
        "chosen_labels": torch.tensor([[IGNORE_INDEX] * (len(tokens) - 1) + [0]]),
    }
    batch["pixel_values"] = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    batch["image_flags"] = torch.ones(1, dtype=torch.long)
    return {name: value.to(device) for name, value in pack_batch(batch).items()}
