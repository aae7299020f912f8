"""Attention over packed prompts whose answers share a prefix, registered with transformers under one name.

A packed row is cut into segments: each prompt prefix attends to itself, each answer branch to its prefix and itself,
all causal with the diagonal at the bottom right; in layers with a sliding window to the last of these keys alone. Their
layout is built once per batch and reaches every layer as the keyword `shared_prefix` of the model's forward; window and
attention sinks are the layer's own keywords. In half precision on a GPU segments run in one call of a variable-length
kernel (`attention_varlen`), elsewhere in a few padded calls (`attention_groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from internvl_chat.packed.groups import SegmentGroup, build_groups, group_attention
from internvl_chat.packed.segments import Segment, Weighting, map_tensors
from internvl_chat.packed.sequence_parallel import SequenceGroup
from internvl_chat.packed.varlen import VarlenIndex, build_varlen, varlen_attention, varlen_refusal

ATTENTION_NAME = "shared_prefix"


@dataclass(frozen=True)
class SharedPrefixLayout:
    """How the attention of a packed row of N positions is computed, in both ways.

    Attributes:
        groups: computed in order; their real outputs, concatenated, are N rows.
        restore: (N,) row of that concatenation for each packed position.
        varlen: the same as one call.
        segments: what the row consists of, for layers with a window.
    """

    groups: tuple[SegmentGroup, ...]
    restore: torch.Tensor
    varlen: VarlenIndex
    segments: tuple[Segment, ...]

    def narrowed(self, window: int | None) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
        """`groups` and `restore` where a query sees at most `window` keys, None for all."""
        if window is None or window >= self.varlen.longest[1]:
            return self.groups, self.restore
        return _narrowed_groups(self.segments, window, self.restore.device)


def build_layout(segments: Sequence[Segment]) -> SharedPrefixLayout:
    """Lay out the segments of a packed row; together they must cover each position exactly once."""
    return SharedPrefixLayout(*build_groups(segments), build_varlen(segments), tuple(segments))


@lru_cache(maxsize=2)  # all layers of a model have the same window, and policy and reference the same row
def _narrowed_groups(
    segments: tuple[Segment, ...], window: int, device: torch.device
) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
    """Groups of a row for a window, and where their outputs belong, on a device."""
    groups, restore = build_groups(segments, window)
    return tuple(map_tensors(group, lambda tensor: tensor.to(device)) for group in groups), restore.to(device)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
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
        sliding_window: keys that a query sees, itself the last; None for all. By position within prompt and answer.
        s_aux: (H,) attention sinks, the name that transformers gives them: see `Weighting`.
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
    weighting = Weighting(scaling, dropout, sliding_window, s_aux)
    if sequence_group is None:
        return _attend(query, key, value, shared_prefix, weighting), None
    if key.shape[1] % sequence_group.size:
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    query, key, value = map(sequence_group.to_heads, (query, key, value))
    if s_aux is not None:
        weighting = replace(weighting, sinks=sequence_group.own(s_aux, 0))
    return sequence_group.to_positions(_attend(query, key, value, shared_prefix, weighting)), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: SharedPrefixLayout,
    weighting: Weighting,
) -> torch.Tensor:
    """Outputs (1, N, H, D) of a whole row."""
    dtype, window = working_dtype(query), weighting.window
    kind = {"windowed": window is not None, "with_sinks": weighting.sinks is not None}
    if not weighting.dropout and not varlen_refusal(query.device, dtype, **kind):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return varlen_attention(query[0], key[0], value[0], layout.varlen, weighting)[None]
    groups, restore = layout.narrowed(window)
    outputs = [group_attention(query[0], key[0], value[0], part, weighting) for part in groups]
    return torch.cat(outputs).index_select(0, restore)[None]


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
