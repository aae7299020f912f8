"""Packed attention anywhere: segments of like size padded into one `scaled_dot_product_attention` call each.

Short answers cost few calls so, and long ones little padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from internvl_chat.segments import Segment

MOST_PADDING = 1.1  # padded over real query-key products of a group: with long answers padding costs more than a call


@dataclass(frozen=True)
class SegmentGroup:
    """Segments computed in one call: G segments, padded to Q queries and K keys.

    Attributes:
        queries: (G * Q,) positions in the packed row, 0 where padded.
        keys: (G * K,) likewise.
        prefix_lengths: (G,) keys before a segment's own; None where no segment has a prefix.
        real: (n,) indices into the flattened (G * Q,) output that are not padding.
        size: G.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    prefix_lengths: torch.Tensor | None
    real: torch.Tensor
    size: int

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """(G, 1, Q, K) bool, True where seen; None where plain causal masking does, which hides padding at the right.

        A padded query sees real keys too, which keeps its unused row finite.
        """
        if self.prefix_lengths is None:
            return None
        num_queries, num_keys = len(self.queries) // self.size, len(self.keys) // self.size
        last_seen = torch.arange(num_queries, device=self.queries.device) + self.prefix_lengths[:, None]
        return torch.arange(num_keys, device=self.queries.device) <= last_seen[:, None, :, None]


def build_groups(segments: Sequence[Segment]) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
    """Groups that cover a packed row, and for each of its N positions the row of their concatenated real outputs."""
    groups = tuple(build_group(members) for members in group_segments(segments))
    order = torch.cat([group.queries[group.real] for group in groups])
    return groups, torch.argsort(order)


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
    """Index tensors of segments that run in one call."""
    num_queries, num_keys = max(s.length for s in members), max(s.num_keys for s in members)
    queries = np.zeros((len(members), num_queries), np.int64)
    keys = np.zeros((len(members), num_keys), np.int64)
    lengths = np.array([[s.length] for s in members])
    prefix_lengths = np.array([s.prefix_length for s in members])
    for row, s in enumerate(members):
        queries[row, : s.length] = np.arange(s.start, s.start + s.length)
        keys[row, : s.prefix_length] = np.arange(s.prefix_start, s.prefix_start + s.prefix_length)
        keys[row, s.prefix_length : s.num_keys] = queries[row, : s.length]
    return SegmentGroup(
        queries=torch.from_numpy(queries.reshape(-1)),
        keys=torch.from_numpy(keys.reshape(-1)),
        prefix_lengths=torch.from_numpy(prefix_lengths) if prefix_lengths.any() else None,
        real=torch.from_numpy(np.flatnonzero(np.arange(num_queries) < lengths)),
        size=len(members),
    )


def group_attention(
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
