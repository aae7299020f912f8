"""What a packed row consists of: segments, each a prompt's prefix or an answer's branch; how scores become weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch

Moved = TypeVar("Moved")


@dataclass(frozen=True)
class Segment:
    """Queries [start, start + length) of the packed row; keys are [prefix_start, + prefix_length) and the queries.

    Query i of the segment sees the whole prefix and the segment's own positions up to i: a causal mask with its
    diagonal at the bottom right.
    """

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

    def windowed(self, window: int) -> Iterator[Segment]:
        """Pieces with the keys that their queries see where a query sees `window` keys, itself the last, and no more.

        A piece has at most `window` queries and a prefix of `window` - 1 keys, so that a long segment costs twice the
        window per query, not its length. All keys behind the first piece are the segment's own.
        """
        kept = min(self.prefix_length, window - 1)
        yield Segment(self.start, min(self.length, window), self.prefix_start + self.prefix_length - kept, kept)
        end = self.start + self.length
        for start in range(self.start + window, end, window):
            yield Segment(start, min(window, end - start), start - (window - 1), window - 1)


@dataclass(frozen=True)
class Weighting:
    """How the scores of what a query sees become weights.

    Attributes:
        scaling: of the scores, None for 1/sqrt(D).
        dropout: probability that a weight is left out.
        window: a query sees so many keys, itself the last of them; None for all. It counts positions, not places in the
            packed row: an answer's first token has the end of its prompt in its window.
        sinks: (H,) a logit per head that stands in the denominator of the softmax and gives nothing to the output;
            None for no such term.
    """

    scaling: float | None = None
    dropout: float = 0.0
    window: int | None = None
    sinks: torch.Tensor | None = None


def map_tensors(item: Moved, change: Any) -> Moved:
    """A copy of a frozen dataclass with `change` applied to its tensors, also inside tuples and dataclasses."""

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        return map_tensors(value, change) if hasattr(value, "__dataclass_fields__") else value

    return type(item)(**{part.name: walk(getattr(item, part.name)) for part in fields(item)})  # type: ignore[arg-type]
