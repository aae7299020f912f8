"""Attention over packed prompts whose answers share a prefix, registered with transformers under one name.

A packed row is cut into segments: each prompt prefix attends to itself, each answer branch to its prefix and itself,
all causal with the diagonal at the bottom right. Their layout is built once per batch and reaches every layer as the
keyword `shared_prefix` of the model's forward. In half precision on a GPU they run in one call of a variable-length
kernel (`attention_varlen`), elsewhere in a few padded calls (`attention_groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from internvl_chat.attention_groups import SegmentGroup, build_groups, group_attention
from internvl_chat.attention_varlen import VarlenIndex, build_varlen, varlen_attention, varlen_refusal
from internvl_chat.segments import Segment
from internvl_chat.sequence_parallel import SequenceGroup

ATTENTION_NAME = "shared_prefix"


@dataclass(frozen=True)
class SharedPrefixLayout:
    """How the attention of a packed row of N positions is computed, in both ways.

    Attributes:
        groups: computed in order; their real outputs, concatenated, are N rows.
        restore: (N,) row of that concatenation for each packed position.
        varlen: the same as one call.
    """

    groups: tuple[SegmentGroup, ...]
    restore: torch.Tensor
    varlen: VarlenIndex


def build_layout(segments: Sequence[Segment]) -> SharedPrefixLayout:
    """Lay out the segments of a packed row; together they must cover each position exactly once."""
    return SharedPrefixLayout(*build_groups(segments), build_varlen(segments))


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: SharedPrefixLayout | None = None,
    sequence_group: SequenceGroup | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the form of transformers' interface.

    Args:
        module: the calling layer.
        query: (1, H, N, D) of the packed row.
        key: (1, H_kv, N, D), H a multiple of H_kv.
        value: like key.
        attention_mask: ignored; the layout says who sees whom.
        scaling: of the scores, None for 1/sqrt(D).
        dropout: probability, 0 outside training; the variable-length kernel has none, so groups run then.
        shared_prefix: layout of the row.
        sequence_group: ranks that share the row; the N positions here are this rank's.

    Returns:
        (1, N, H, D) and None for the attention weights.

    Raises:
        ValueError: no layout was passed; plain attention would mix the answers in silence.
    """
    if shared_prefix is None:
        name = type(module).__name__
        raise ValueError(f"{name}: attention {ATTENTION_NAME!r} needs shared_prefix=; use sdpa for unpacked batches")
    if sequence_group is None:
        return _attend(query, key, value, shared_prefix, scaling, dropout), None
    if key.shape[1] % sequence_group.size:
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    query, key, value = map(sequence_group.to_heads, (query, key, value))
    return sequence_group.to_positions(_attend(query, key, value, shared_prefix, scaling, dropout)), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: SharedPrefixLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Outputs (1, N, H, D) of a whole row."""
    dtype = working_dtype(query)
    if not dropout and not varlen_refusal(query.device, dtype):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return varlen_attention(query[0], key[0], value[0], layout.varlen, scaling)[None]
    outputs = [group_attention(query[0], key[0], value[0], part, scaling, dropout) for part in layout.groups]
    return torch.cat(outputs).index_select(0, layout.restore)[None]


def working_dtype(states: torch.Tensor) -> torch.dtype:
    """Type that attention runs in: autocast's, which rotary embeddings leave for float32, else that of the states."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def no_mask(*_: Any, **__: Any) -> None:
    """Mask function of transformers' interface: the layout takes the place of a mask."""


def register_attention() -> None:
    """Make the name known to transformers; safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, no_mask)
