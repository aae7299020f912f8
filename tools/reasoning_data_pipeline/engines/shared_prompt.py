"""Attention of answers in the making: a prompt's keys and values are held once for all its samples.

    softmax over [ prompt | own tokens ]  =  both parts' outputs, weighted by e^lse of each over the sum of the two

where lse is the log-sum-exp of a part's scores. The samples of a prompt ask its keys in one matrix product, those of a
group of prompts, which were computed together, in one call. A row's own keys and values are written in place into
slots that grow by doubling, so that no step copies what was there. An attention sink is a third part of no value.

Registered with transformers under one name, which the language model has during a step only (`attending`).
Shapes: R rows, P prompts of a group, M most rows of a prompt, S prompt tokens, L own tokens, H heads, H_kv key-value
heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

ATTENTION_NAME = "shared_prompt"
LEAST = -1e30  # of a log-sum-exp: a part in which nothing is seen then weighs nothing, and is not NaN
FIRST_SLOTS = 64  # own tokens per row to begin with


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that were computed together.

    Attributes:
        keys: of each layer (P, H_kv, S, D), padded on the left.
        values: likewise.
        lengths: (P,) tokens of each prompt.
        logits: (P, V) of the first token of an answer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor
    logits: Tensor

    def select(self, prompts: Sequence[int]) -> PromptGroup:
        """A copy of some of the prompts, without columns that are padding in each of them."""
        index = torch.tensor(list(prompts), device=self.lengths.device)
        lengths = self.lengths[index]
        start = self.keys[0].shape[2] - int(lengths.max())
        keys, values = (tuple(layer[index, :, start:] for layer in side) for side in (self.keys, self.values))
        return PromptGroup(keys, values, lengths, self.logits[index])


class OwnStates:
    """Keys and values of the rows' own tokens, in the form of transformers' cache: row r has slot r.

    `lengths` (R,) counts a row's tokens, the one that is being computed included.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin without rows."""
        self.lengths = torch.zeros(0, dtype=torch.long, device=device)
        self._longest = 0
        self._layers: dict[int, list[Tensor]] = {}

    def grow(self, rows: int) -> None:
        """Add rows without tokens."""
        self.lengths = torch.cat([self.lengths, self.lengths.new_zeros(rows)])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows; `rows[i]` becomes row i, and moves only if it was another."""
        lengths = self.lengths.tolist()
        moved = [(place, row) for place, row in enumerate(rows) if place != row and lengths[row]]
        if moved:
            to, source = torch.tensor(moved, device=self.lengths.device).T
            for states in self._layers.values():
                for tensor in states:
                    tensor[to, :, : self._longest] = tensor[source, :, : self._longest]
        self.lengths = self.lengths[torch.tensor(rows, dtype=torch.long, device=self.lengths.device)]
        self._longest = int(self.lengths.max()) if len(rows) else 0

    def begin_token(self) -> None:
        """Make room for one more token of each row."""
        self.lengths = self.lengths + 1
        self._longest += 1

    @property
    def seen(self) -> Tensor | None:
        """(R, 1, 1, L) bool, which of the columns a row has; None where all have all."""
        if bool((self.lengths == self._longest).all()):
            return None
        columns = torch.arange(self._longest, device=self.lengths.device)
        return (columns < self.lengths[:, None])[:, None, None]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new token's keys and values (R, H_kv, 1, D); all of the rows' own, (R, H_kv, L, D) views."""
        rows, length = len(self.lengths), self._longest
        states = self._layers[layer_idx] = self._with_room(layer_idx, keys, values)
        places = torch.arange(rows, device=keys.device), slice(None), self.lengths - 1
        for tensor, new in zip(states, (keys, values), strict=True):
            tensor[places] = new[:, :, 0]
        return states[0][:rows, :, :length], states[1][:rows, :, :length]

    def _with_room(self, layer_idx: int, keys: Tensor, values: Tensor) -> list[Tensor]:
        """The slots of a layer, made or doubled where they do not suffice."""
        rows, length = len(self.lengths), self._longest
        states = self._layers.get(layer_idx)
        if states is not None and states[0].shape[0] >= rows and states[0].shape[2] >= length:
            return states
        had = (0, 0) if states is None else (states[0].shape[0], states[0].shape[2])
        slots = max(had[1], FIRST_SLOTS)
        while slots < length:
            slots *= 2
        grown = [new.new_zeros(max(rows, had[0]), new.shape[1], slots, new.shape[3]) for new in (keys, values)]
        for larger, smaller in zip(grown, states or (), strict=False):
            larger[: had[0], :, : had[1]] = smaller
        return grown

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Own tokens of the longest row, the one that is being computed not included."""
        return self._longest - 1


@dataclass(frozen=True)
class PromptMembers:
    """The rows of a group of prompts.

    Attributes:
        group: the prompts.
        rows: (P, M) which rows ask each prompt, padded with row 0.
        places: (n,) where in the flattened (P * M,) the group's n rows are.
        order: (n,) these rows.
        prompt_lengths: (n,) tokens of the prompts of these rows.
    """

    group: PromptGroup
    rows: Tensor
    places: Tensor
    order: Tensor
    prompt_lengths: Tensor

    @classmethod
    def of(cls, group: PromptGroup, asked: Sequence[tuple[int, int]]) -> PromptMembers:
        """Of pairs of (row, its prompt)."""
        columns: list[list[int]] = [[] for _ in group.lengths]
        for row, prompt in asked:
            columns[prompt].append(row)
        most = max(map(len, columns))
        places = [prompt * most + column for prompt, rows in enumerate(columns) for column in range(len(rows))]
        padded = [rows + [0] * (most - len(rows)) for rows in columns]
        order = [row for rows in columns for row in rows]
        device = group.lengths.device
        asking, at, numbers = (torch.tensor(each, device=device) for each in (padded, places, order))
        return cls(group, asking, at, numbers, group.lengths[at // most])

    def seen(self, own_lengths: Tensor, window: int | None) -> Tensor | None:
        """(P, 1, M or 1, 1, S) bool, which of the prompt's columns a row sees; None for all."""
        longest = self.group.keys[0].shape[2]
        column = torch.arange(longest, device=own_lengths.device) - longest  # counted from the end of the prompt
        lengths = self.group.lengths[:, None]
        if window is None:
            if bool((lengths == longest).all()):
                return None
            return (column >= -lengths)[:, None, None, None]
        first = own_lengths[self.rows] - window  # of the positions that a row sees, 0 being its own first
        return ((column >= -lengths)[:, None] & (column >= first[..., None]))[:, None, :, None]


@dataclass(frozen=True)
class BranchLayout:
    """Who asks which prompt in one step: every row is in one of the groups.

    Attributes:
        members: groups with their rows.
        own: the rows' own states.
    """

    members: tuple[PromptMembers, ...]
    own: OwnStates


def attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention of one part: outputs (B, H_kv, Q, D) float32, and the log-sum-exp (B, H_kv, Q, 1) of its scores.

    Args:
        query: (B, H_kv, Q, D).
        keys: (B, H_kv, K, D).
        values: like keys.
        seen: bool that broadcasts to (B, H_kv, Q, K), None for all.
        scaling: of the scores.
    """
    scores = ((query * scaling) @ keys.transpose(-1, -2)).float()
    if seen is not None:
        scores.masked_fill_(~seen, -torch.inf)
    highest = scores.amax(-1, keepdim=True).clamp_(min=LEAST)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(-1, keepdim=True)
    output = (weights.to(values.dtype) @ values).float()
    return output / total.clamp(min=1), highest + total.log()


def shared_prompt_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    branches: BranchLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention function in the form of transformers' interface.

    Args:
        module: the calling layer, which knows its number.
        query: (R, H, 1, D).
        key: (R, H_kv, L, D) of the rows' own tokens.
        value: like key.
        attention_mask: ignored; `branches` says who sees what.
        scaling: of the scores, None for 1/sqrt(D).
        sliding_window: keys that a query sees, itself the last; None for all.
        s_aux: (H,) attention sinks.
        branches: who asks which prompt.

    Returns:
        (R, 1, H, D) and None for the attention weights.
    """
    assert branches is not None, f"{type(module).__name__}: attention {ATTENTION_NAME!r} needs branches="
    rows, heads, _one, width = query.shape
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scaling = width**-0.5 if scaling is None else scaling
    asking = query.reshape(rows, key.shape[1], -1, width)  # (R, H_kv, H / H_kv, D)
    output, lse = attend(asking, key, value, own_seen(branches.own, sliding_window), scaling)
    before, before_lse = torch.empty_like(output), torch.empty_like(lse)
    for members in branches.members:
        before[members.order], before_lse[members.order] = _ask_prompts(
            members, asking, layer, members.seen(branches.own.lengths, sliding_window), scaling
        )
    total = torch.logaddexp(lse, before_lse)
    if s_aux is not None:
        total = torch.logaddexp(total, s_aux.float().view(1, key.shape[1], -1, 1))
    joined = output * (lse - total).exp() + before * (before_lse - total).exp()
    return joined.to(query.dtype).reshape(rows, 1, heads, width), None


def own_seen(own: OwnStates, window: int | None) -> Tensor | None:
    """As `OwnStates.seen`, where a row sees `window` keys at most, None for all."""
    if window is None or own.get_seq_length() < window:
        return own.seen
    columns = torch.arange(own.get_seq_length() + 1, device=own.lengths.device)
    lengths = own.lengths[:, None]
    return ((columns < lengths) & (columns >= lengths - window))[:, None, None]


def _ask_prompts(
    members: PromptMembers, asking: Tensor, layer: int, seen: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Outputs (n, H_kv, H / H_kv, D) and log-sum-exps of a group's rows over its prompts, in `members.order`."""
    shape = members.rows.shape  # (P, M)
    query = asking[members.rows].transpose(1, 2)  # (P, H_kv, M, H / H_kv, D)
    per_head = query.shape[3]
    if seen is not None:
        seen = seen.expand(-1, -1, shape[1], per_head, -1).flatten(2, 3)
    keys, values = members.group.keys[layer], members.group.values[layer]
    parts = attend(query.flatten(2, 3), keys, values, seen, scaling)
    output, lse = (part.unflatten(2, (shape[1], per_head)).transpose(1, 2).flatten(0, 1) for part in parts)
    return output[members.places], lse[members.places]


def register_attention() -> None:
    """Make the name known to transformers; safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, shared_prompt_attention)


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Within, the language model attends in this way: no masks are made, `branches=` is needed."""
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
