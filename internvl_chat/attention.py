"""Attention over packed prompts whose answers share a prefix, registered with transformers under one name.

A packed row is cut into segments: each prompt prefix attends to itself, each answer branch to its prefix and itself,
all causal with the diagonal at the bottom right. Segments of like size are padded together into one
`scaled_dot_product_attention` call, so short answers cost few calls and long ones little padding. The layout is built
once per batch and reaches every layer as the keyword `shared_prefix` of the model's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

ATTENTION_NAME = "shared_prefix"
MOST_PADDING = 1.1  # padded over real query-key products of a group: with long answers padding costs more than a call

Moved = TypeVar("Moved")


def map_tensors(item: Moved, change: Any) -> Moved:
    """A copy of a frozen dataclass with `change` applied to its tensors, also inside tuples and dataclasses."""

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        return map_tensors(value, change) if hasattr(value, "__dataclass_fields__") else value

    return type(item)(**{part.name: walk(getattr(item, part.name)) for part in fields(item)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Segment:
    """Queries [start, start + length) of the packed row; keys are [prefix_start, + prefix_length) and the queries."""

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0

    @property
    def num_keys(self) -> int:
        """Positions that the last query sees."""
        return self.prefix_length + self.length

    @property
    def cost(self) -> int:
        """Query-key products of the segment as a full rectangle."""
        return self.length * self.num_keys


@dataclass(frozen=True)
class SegmentGroup:
    """Segments computed in one call. G segments, padded to Q queries and K keys.

    Attributes:
        queries: (G * Q,) positions in the packed row, 0 where padded.
        keys: (G * K,) likewise.
        size: G.
        mask: (G, 1, Q, K) bool, True where seen; None where no segment has a prefix and plain causal masking does.
        real: (n,) indices into the flattened (G * Q,) output that are not padding.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    size: int
    mask: torch.Tensor | None
    real: torch.Tensor


@dataclass(frozen=True)
class SharedPrefixLayout:
    """Groups that cover a packed row of N positions, and where each output goes.

    Attributes:
        groups: computed in order; their real outputs, concatenated, are N rows.
        restore: (N,) row of that concatenation for each packed position.
    """

    groups: tuple[SegmentGroup, ...]
    restore: torch.Tensor


def build_layout(segments: Sequence[Segment]) -> SharedPrefixLayout:
    """Group the segments of a packed row; together they must cover each position exactly once."""
    groups = tuple(build_group(members) for members in group_segments(segments))
    order = torch.cat([group.queries[group.real] for group in groups])
    return SharedPrefixLayout(groups, torch.argsort(order))


def group_segments(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Put segments of like size together, as long as padding stays within MOST_PADDING."""
    groups: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda s: (s.prefix_length > 0, s.num_keys, s.length, s.start)):
        if groups:
            members = [*groups[-1], segment]
            widest, longest = max(s.num_keys for s in members), max(s.length for s in members)
            same_kind = (groups[-1][0].prefix_length > 0) == (segment.prefix_length > 0)
            if same_kind and len(members) * widest * longest <= MOST_PADDING * sum(s.cost for s in members):
                groups[-1] = members
                continue
        groups.append([segment])
    return groups


def build_group(members: Sequence[Segment]) -> SegmentGroup:
    """Index tensors and mask of segments that run in one call."""
    num_queries, num_keys = max(s.length for s in members), max(s.num_keys for s in members)
    queries = np.zeros((len(members), num_queries), np.int64)
    keys = np.zeros((len(members), num_keys), np.int64)
    lengths = np.array([[s.length] for s in members])
    offsets = np.array([s.prefix_length for s in members])
    for row, s in enumerate(members):
        queries[row, : s.length] = np.arange(s.start, s.start + s.length)
        keys[row, : s.prefix_length] = np.arange(s.prefix_start, s.prefix_start + s.prefix_length)
        keys[row, s.prefix_length : s.num_keys] = queries[row, : s.length]
    is_plain = not offsets.any()  # a causal mask hides padding at the right by itself
    # Query i sees key j <= i + offset; a padded query sees real keys too, which keeps its unused row finite.
    seen = np.arange(num_keys) <= np.arange(num_queries)[:, None] + offsets[:, None, None]
    return SegmentGroup(
        queries=torch.from_numpy(queries.reshape(-1)),
        keys=torch.from_numpy(keys.reshape(-1)),
        size=len(members),
        mask=None if is_plain else torch.from_numpy(seen[:, None]),
        real=torch.from_numpy(np.flatnonzero(np.arange(num_queries) < lengths)),
    )


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: SharedPrefixLayout | None = None,
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
        dropout: probability, 0 outside training.
        shared_prefix: layout of the row.

    Returns:
        (1, N, H, D) and None for the attention weights.

    Raises:
        ValueError: no layout was passed; plain attention would mix the answers in silence.
    """
    if shared_prefix is None:
        name = type(module).__name__
        raise ValueError(f"{name}: attention {ATTENTION_NAME!r} needs shared_prefix=; use sdpa for unpacked batches")
    outputs = [_attend(query[0], key[0], value[0], group, scaling, dropout) for group in shared_prefix.groups]
    return torch.cat(outputs).index_select(0, shared_prefix.restore)[None], None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: SegmentGroup,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Real outputs (n, H, D) of one group from (H, N, D) queries and (H_kv, N, D) keys and values."""

    def gather(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        picked = states.index_select(1, index).unflatten(1, (group.size, -1)).transpose(0, 1)
        return picked.repeat_interleave(query.shape[0] // states.shape[0], dim=1)  # (G, H, length, D)

    output = F.scaled_dot_product_attention(
        gather(query, group.queries),
        gather(key, group.keys),
        gather(value, group.keys),
        attn_mask=group.mask,
        dropout_p=dropout,
        is_causal=group.mask is None,
        scale=scaling,
    )
    return output.transpose(1, 2).flatten(0, 1).index_select(0, group.real)


def no_mask(*_: Any, **__: Any) -> None:
    """Mask function of transformers' interface: the layout takes the place of a mask."""


def register_attention() -> None:
    """Make the name known to transformers; safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, no_mask)
