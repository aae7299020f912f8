"""Who sees whom in packed tokens: segments, each a part of a prompt or an answer's branch, and how they are computed.

A layout is built once per batch, on the CPU, and says it in both ways that `attention` knows: groups of segments of
like size, padded into one `scaled_dot_product_attention` call each, and index tensors of one call of a variable-length
kernel. With groups, short answers cost few calls and long ones little padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import torch

MOST_PADDING = 1.1  # padded over real query-key products of a group: with long answers padding costs more than a call

Moved = TypeVar("Moved")
Span = tuple[int, int]  # where positions in a row begin in the pack, and how many they are


@dataclass(frozen=True)
class Segment:
    """Queries [start, start + length) of the pack; keys are [prefix_start, + prefix_length) and the queries.

    Query i of the segment sees the whole prefix and the segment's own positions up to i: a causal mask with its
    diagonal at the bottom right. Where the prefix lies in several places, as that of an answer to the second question
    about an image does, `earlier` are the spans of it before the last one.
    """

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0
    earlier: tuple[Span, ...] = ()

    @classmethod
    def behind(cls, prefix: Sequence[Span], start: int, length: int) -> Segment:
        """A segment whose prefix is these spans, in their order."""
        return cls(start, length, *prefix[-1], tuple(prefix[:-1])) if prefix else cls(start, length)

    @property
    def prefix(self) -> tuple[Span, ...]:
        """All spans of the prefix; empty ones where it has none."""
        return (*self.earlier, (self.prefix_start, self.prefix_length))

    @property
    def before(self) -> int:
        """Keys in front of the segment's own."""
        return sum(length for _, length in self.prefix)

    @property
    def keys(self) -> np.ndarray:
        """(num_keys,) positions that the last query sees."""
        spans = (*self.prefix, (self.start, self.length))
        return np.concatenate([np.arange(start, start + length) for start, length in spans])

    @property
    def num_keys(self) -> int:
        """How many positions the last query sees."""
        return self.before + self.length

    @property
    def cost(self) -> int:
        """Query-key products of the segment as a full rectangle."""
        return self.length * self.num_keys

    def windowed(self, window: int) -> Iterator[Segment]:
        """Pieces with the keys that their queries see where a query sees `window` keys, itself the last, and no more.

        A piece has at most `window` queries and a prefix of `window` - 1 keys, so that a long segment costs twice the
        window per query, not its length. All keys behind the first piece are the segment's own.
        """
        prefix = cut_spans(self.prefix, max(0, self.before - (window - 1)), self.before)
        yield Segment.behind(prefix, self.start, min(self.length, window))
        end = self.start + self.length
        for start in range(self.start + window, end, window):
            yield Segment(start, min(window, end - start), start - (window - 1), window - 1)


def cut_spans(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """The spans of positions number `start` to `end` of those that `spans` have together, none of them empty."""
    parts: list[Span] = []
    for first, length in spans:
        low, high = max(start, 0), min(end, length)
        if low < high:
            parts.append((first + low, high - low))
        start, end = start - length, end - length
    return tuple(parts)


@dataclass(frozen=True)
class SegmentGroup:
    """Segments computed in one call: G segments, padded to Q queries and K keys.

    Attributes:
        queries: (G * Q,) positions in the pack, 0 where padded.
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

        A padded query sees keys too, which keeps its unused output finite.
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


@dataclass(frozen=True)
class VarlenIndex:
    """S segments as one call; their queries are the pack itself, in its order.

    Attributes:
        keys: (M,) positions in the pack of the keys of one segment after the other.
        query_ends: (S + 1,) int32, where each segment's queries end, from 0.
        key_ends: (S + 1,) int32 likewise of the keys.
        longest: most queries and most keys of a segment.
    """

    keys: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    longest: tuple[int, int]


@dataclass(frozen=True)
class SharedPrefixLayout:
    """How the attention of a pack of N positions is computed, in both ways.

    Attributes:
        groups: computed in order; their real outputs, concatenated, are N vectors.
        restore: (N,) which of these belongs to each position.
        varlen: the same as one call.
        segments: what the pack consists of, for layers with a window.
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
    """Lay out the segments of a pack; together they must cover each position exactly once."""
    return SharedPrefixLayout(*build_groups(segments), build_varlen(segments), tuple(segments))


@lru_cache(maxsize=2)  # all layers of a model have the same window, and policy and reference the same pack
def _narrowed_groups(
    segments: tuple[Segment, ...], window: int, device: torch.device
) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
    """Groups of a pack for a window, and where their outputs belong, on a device."""
    groups, restore = build_groups(segments, window)
    return tuple(map_tensors(group, lambda tensor: tensor.to(device)) for group in groups), restore.to(device)


def build_groups(
    segments: Sequence[Segment], window: int | None = None
) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
    """Groups that cover a pack, and for each of its N positions which of their concatenated real outputs is its own.

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
    for segment in sorted(segments, key=lambda s: (s.before > 0, s.num_keys, s.length, s.start)):
        if groups:
            members = [*groups[-1], segment]
            widest, longest = max(s.num_keys for s in members), max(s.length for s in members)
            same_kind = (groups[-1][0].before > 0) == (segment.before > 0)
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
    prefix_lengths = np.array([s.before for s in members])
    for number, s in enumerate(members):
        queries[number, : s.length] = np.arange(s.start, s.start + s.length)
        keys[number, : s.num_keys] = s.keys
    return SegmentGroup(
        queries=torch.from_numpy(queries.reshape(-1)),
        keys=torch.from_numpy(keys.reshape(-1)),
        prefix_lengths=torch.from_numpy(prefix_lengths) if prefix_lengths.any() else None,
        real=torch.from_numpy(np.flatnonzero(np.arange(num_queries) < lengths)),
        size=len(members),
        window=window,
    )


def build_varlen(segments: Sequence[Segment]) -> VarlenIndex:
    """Index of a pack that the segments cover."""
    ordered = sorted(segments, key=lambda s: s.start)
    keys = np.concatenate([s.keys for s in ordered])
    lengths = [s.length for s in ordered], [s.num_keys for s in ordered]
    query_ends, key_ends = (torch.tensor([0, *np.cumsum(part)], dtype=torch.int32) for part in lengths)
    return VarlenIndex(torch.from_numpy(keys), query_ends, key_ends, (max(lengths[0]), max(lengths[1])))


def map_tensors(item: Moved, change: Any) -> Moved:
    """A copy of a frozen dataclass with `change` applied to its tensors, also inside tuples and dataclasses."""

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        return map_tensors(value, change) if hasattr(value, "__dataclass_fields__") else value

    return type(item)(**{part.name: walk(getattr(item, part.name)) for part in fields(item)})  # type: ignore[arg-type]
