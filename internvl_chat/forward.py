"""A packed batch through a model: the sequence log-probs of every answer, by the policy and by the reference alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from internvl_chat.attention import ATTENTION_NAME, register_attention
from internvl_chat.logps import LogpsHead, install_logps_head, sequence_logps
from internvl_chat.model import InternVLChatModel
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packing import PackedPairs, pack


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

    Generation with this model object needs `set_attn_implementation("sdpa")` again.
    """
    register_attention()
    model.language_model.set_attn_implementation(ATTENTION_NAME)
    install_logps_head(model.language_model)


def packed(batch: Mapping[str, Any]) -> PackedPairs:
    """The packed row that the collator made, or one made here of a batch that was only padded."""
    if "packed" in batch:
        return batch["packed"]
    device = batch["pixel_values"].device
    on_cpu = {name: value.cpu() for name, value in batch.items() if name.endswith(("input_ids", "labels"))}
    return pack(on_cpu).to(device)


def pair_logps(model: torch.nn.Module, batch: Mapping[str, Any]) -> PairLogps:
    """Log-probs of both answers of each pair; vision tower and prompt run once per pair.

    Args:
        model: the policy or the reference, wrapped or not, switched by `use_shared_prefix`.
        batch: `packed` (or what it is made of), `pixel_values` (T, 3, H, W) uint8 or normalised, `image_flags` (T,).
    """
    row = packed(batch)
    hidden = model(
        pixel_values=batch["pixel_values"],
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        image_flags=batch["image_flags"],
        shared_prefix=row.layout,
        skip_logits=True,
        use_cache=False,
    ).last_hidden_state
    logps = language_model_head(model)(hidden[0], row.labels)
    sums = sequence_logps(logps, row.answer_ids, len(row.lengths))
    chosen, rejected = sums[: row.num_prompts], sums[row.num_prompts :]
    chosen_lengths, rejected_lengths = row.lengths[: row.num_prompts], row.lengths[row.num_prompts :]
    if not len(rejected):
        return PairLogps(chosen, None, chosen_lengths, None)
    return PairLogps(chosen, rejected, chosen_lengths, rejected_lengths)


def language_model_head(model: torch.nn.Module) -> LogpsHead:
    """The LM head of a model that DDP or DeepSpeed may have wrapped."""
    inner: Any = model
    while not isinstance(inner, InternVLChatModel):
        inner = inner.module
    return inner.language_model.get_output_embeddings()


def idle_batch(model: InternVLChatModel, device: torch.device) -> dict[str, Any]:
    """The smallest batch that runs every module, for a rank without a usable row: a blank tile, a supervised token."""
    size = model.config.force_image_size or model.config.vision_config.image_size
    tokens = [model.img_context_token_id] * model.num_image_token + [0, 0]
    batch = {
        "chosen_input_ids": torch.tensor([tokens]),
        "chosen_labels": torch.tensor([[IGNORE_INDEX] * (len(tokens) - 1) + [0]]),
    }
    return {
        "packed": pack(batch).to(device),
        "pixel_values": torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device),
        "image_flags": torch.ones(1, dtype=torch.long, device=device),
    }
