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
from torch import Tensor

from internvl_chat.packed.segments import Segment, Weighting

MOST_PADDING = 1.1  # padded over real query-key products of a group: with long answers padding costs more than a call
SINK_WIDTH = 8  # dimensions that hold an attention sink: GPU kernels with a mask take multiples of 8


@dataclass(frozen=True)
class SegmentGroup:
    """Segments computed in one call: G segments, padded to Q queries and K keys.

    Attributes:
        queries: (G * Q,) positions in the packed row, 0 where padded.
        keys: (G * K,) likewise.
        prefix_lengths: (G,) keys before a segment's own; None where no segment has a prefix.
        real: (n,) indices into the flattened (G * Q,) output that are not padding.
        size: G.
        window: keys that a query sees at most, None for all.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    prefix_lengths: torch.Tensor | None
    real: torch.Tensor
    size: int
    window: int | None = None

    @cached_property
    def seen(self) -> torch.Tensor:
        """(G, 1, Q, K) bool, or (1, 1, Q, K) without prefixes: which keys each query sees, by position.

        A padded query sees keys too, which keeps its unused row finite.
        """
        device = self.queries.device
        num_queries, num_keys = len(self.queries) // self.size, len(self.keys) // self.size
        before = self.queries.new_zeros(1) if self.prefix_lengths is None else self.prefix_lengths
        last = (before[:, None] + torch.arange(num_queries, device=device))[:, None, :, None]
        keys = torch.arange(num_keys, device=device)
        if self.window is None:
            return keys <= last
        return (keys <= last) & (keys > last.clamp(max=num_keys - 1) - self.window)

    @property
    def mask(self) -> torch.Tensor | None:
        """As `seen`; None where plain causal masking does, which hides padding at the right."""
        return None if self.prefix_lengths is None else self.seen


def build_groups(
    segments: Sequence[Segment], window: int | None = None
) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
    """Groups that cover a packed row, and for each of its N positions the row of their concatenated real outputs.

    Args:
        segments: cover each position once.
        window: as of `Weighting`.
    """
    pieces = segments if window is None else [piece for segment in segments for piece in segment.windowed(window)]
    groups = tuple(build_group(members, window) for members in group_segments(pieces))
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


def build_group(members: Sequence[Segment], window: int | None = None) -> SegmentGroup:
    """Index tensors of segments that run in one call; without a prefix they must not be longer than the window."""
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
        window=window,
    )


def group_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: SegmentGroup,
    weighting: Weighting,
) -> torch.Tensor:
    """Real outputs (n, H, D) of a group, built for the window, from (H, N, D) queries, (H_kv, N, D) keys and values."""

    def gather(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        picked = states.index_select(1, index).unflatten(1, (group.size, -1)).transpose(0, 1)
        return picked.repeat_interleave(query.shape[0] // states.shape[0], dim=1)  # (G, H, length, D)

    states = gather(query, group.queries), gather(key, group.keys), gather(value, group.keys)
    if weighting.sinks is None:
        output = F.scaled_dot_product_attention(
            *states,
            attn_mask=group.mask,
            dropout_p=weighting.dropout,
            is_causal=group.mask is None,
            scale=weighting.scaling,
        )
    else:
        output = _sink_attention(*states, group.seen, weighting.sinks, weighting)
    return output.transpose(1, 2).flatten(0, 1).index_select(0, group.real)


def _sink_attention(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, sinks: Tensor, weighting: Weighting
) -> Tensor:
    """Outputs (G, H, Q, D) with the sinks as one more key, which every query sees and whose value is 0.

    More dimensions give it its score: 1 in the queries, 0 in the keys but for that one, where they sum up to the sink.
    """
    scaling = query.shape[-1] ** -0.5 if weighting.scaling is None else weighting.scaling
    shares = (sinks.to(key.dtype) / (scaling * SINK_WIDTH))[:, None, None].expand(-1, 1, SINK_WIDTH)
    sink_key = F.pad(shares, (query.shape[-1], 0)).expand(len(key), -1, -1, -1)  # (G, H, 1, D + SINK_WIDTH)
    output = F.scaled_dot_product_attention(
        F.pad(query, (0, SINK_WIDTH), value=1.0),
        torch.cat([sink_key, F.pad(key, (0, SINK_WIDTH))], 2),
        F.pad(value, (0, SINK_WIDTH, 1, 0)),
        attn_mask=F.pad(seen, (1, 0), value=True),
        dropout_p=weighting.dropout,
        scale=scaling,
    )
    return output[..., :-SINK_WIDTH]
