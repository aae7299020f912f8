"""What a packed row consists of: segments, each a prompt's prefix or an answer's branch."""

from __future__ import annotations

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


def map_tensors(item: Moved, change: Any) -> Moved:
    """A copy of a frozen dataclass with `change` applied to its tensors, also inside tuples and dataclasses."""

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if isinstance(value, tuple):
            return tuple(walk(part) for part in value)
        return map_tensors(value, change) if hasattr(value, "__dataclass_fields__") else value

    return type(item)(**{part.name: walk(getattr(item, part.name)) for part in fields(item)})  # type: ignore[arg-type]
