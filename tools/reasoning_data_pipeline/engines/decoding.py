"""Sampling many answers at once: rows of different prompts in one batch, which finished rows leave and new ones join.

Each row has its own random numbers, drawn up front from its seed, so a sample does not depend on which rows it is
decoded with. Rows are aligned on the right: a row that joins is padded on the left, masked there.
Shapes: R rows, S tokens so far, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from tools.reasoning_data_pipeline.engines.protocol import SamplingSettings

CURE = "the weights are damaged, or the number format is too small for them; fetch the checkpoint again"


def candidate_probabilities(logits: torch.Tensor, settings: SamplingSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (R, K) float64 of the candidate tokens, most likely first, and their ids (R, K).

    logits (R, V). Temperature, then top-k, then top-p, as transformers' `generate` applies them. Logits that are not
    finite give NaN.
    """
    if settings.temperature == 0:
        highest, ids = logits.max(-1, keepdim=True)
        return (highest - highest + 1).double(), ids
    kept = min(settings.top_k or logits.shape[-1], logits.shape[-1])
    scores, ids = (logits.float() / settings.temperature).topk(kept)
    probabilities = scores.double().softmax(-1)
    if settings.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= settings.top_p, 0.0)
        probabilities /= probabilities.sum(-1, keepdim=True)
    return probabilities, ids


def draw_tokens(logits: torch.Tensor, noise: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """One token id per row (R,) by inversion: logits (R, V), noise (R,) float64 uniform in [0, 1); -1 for NaN."""
    probabilities, ids = candidate_probabilities(logits, settings)
    cumulative = probabilities.cumsum(-1)
    target = noise[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=ids.shape[-1] - 1)
    return ids.gather(-1, index).squeeze(-1).where(cumulative[:, -1].isfinite(), -1)


@dataclass
class Row:
    """One answer in the making; `noise` has one number in [0, 1) per token that may be drawn."""

    key: str
    sample: int
    noise: np.ndarray
    tokens: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, key: str, sample: int, seed: int, max_new_tokens: int) -> Row:
        """A row without tokens yet."""
        return cls(key, sample, np.random.Generator(np.random.Philox(seed)).random(max_new_tokens))

    @property
    def full(self) -> bool:
        """Whether no more tokens may be drawn."""
        return len(self.tokens) == len(self.noise)


@dataclass
class State:
    """Keys and values of R sequences of equal padded length S, and what comes next.

    Attributes:
        cache: keys and values, each layer (R, heads, S, head width).
        mask: (R, S) int64, 0 for padding.
        positions: (R,) position of the next token.
        logits: (R, V) of the next token.
    """

    cache: DynamicCache
    mask: torch.Tensor
    positions: torch.Tensor
    logits: torch.Tensor

    def select(self, indices: Sequence[int]) -> State:
        """A copy of these rows, which may repeat."""
        index = torch.tensor(list(indices), device=self.mask.device)
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            cache.update(layer.keys[index], layer.values[index], number)
        return State(cache, self.mask[index], self.positions[index], self.logits[index])

    def without_padding(self) -> State:
        """The same without columns that are padding in every row."""
        empty = int(self.mask.any(0).int().argmax())
        if not empty:
            return self
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            cache.update(layer.keys[:, :, empty:], layer.values[:, :, empty:], number)
        return State(cache, self.mask[:, empty:], self.positions, self.logits)

    def join(self, other: State) -> State:
        """The rows of both, the shorter ones padded on the left."""
        length = max(self.mask.shape[1], other.mask.shape[1])
        cache = DynamicCache()
        for number, (mine, theirs) in enumerate(zip(self.cache.layers, other.cache.layers, strict=True)):
            keys = torch.cat([_pad_left(mine.keys, length), _pad_left(theirs.keys, length)])
            values = torch.cat([_pad_left(mine.values, length), _pad_left(theirs.values, length)])
            cache.update(keys, values, number)
        masks = [functional.pad(state.mask, (length - state.mask.shape[1], 0)) for state in (self, other)]
        positions = torch.cat([self.positions, other.positions])
        return State(cache, torch.cat(masks), positions, torch.cat([self.logits, other.logits]))


def _pad_left(values: torch.Tensor, length: int) -> torch.Tensor:
    """(R, heads, S, width) -> (R, heads, length, width)."""
    return functional.pad(values, (0, 0, length - values.shape[2], 0))


class Prefilled:
    """Prompts that were computed, and the rows that have not started from them yet."""

    def __init__(self, state: State, rows: Sequence[Sequence[Row]]) -> None:
        """Take the state of B prompts and the rows of each."""
        self.state = state
        self.waiting = deque((prompt, row) for prompt, group in enumerate(rows) for row in group)

    def take(self, count: int) -> tuple[State, list[Row]]:
        """Start up to `count` rows."""
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        state = self.state.select([prompt for prompt, _ in taken]).without_padding()
        return state, [row for _, row in taken]


class DecodingBatch:
    """The rows that are being decoded."""

    def __init__(self, model: PreTrainedModel, settings: SamplingSettings, stop_ids: frozenset[int]) -> None:
        """Take the language model, how to draw, and the tokens that end an answer."""
        self.model, self.settings, self.stop_ids = model, settings, stop_ids
        self.rows: list[Row] = []
        self._state: State | None = None
        self._prefilled: Prefilled | None = None

    @property
    def waiting(self) -> bool:
        """Whether rows wait for a place."""
        return self._prefilled is not None and bool(self._prefilled.waiting)

    def queue(self, prefilled: Prefilled) -> None:
        """Let the rows of these prompts wait; none may be waiting."""
        assert not self.waiting, f"rows still wait: {self._prefilled}"
        self._prefilled = prefilled

    def admit(self, count: int) -> None:
        """Let up to `count` waiting rows join; some must be waiting."""
        assert self._prefilled is not None, f"no rows wait for {count} places"
        state, rows = self._prefilled.take(count)
        self._state = state if self._state is None else self._state.join(state)
        self.rows += rows
        if not self.waiting:
            self._prefilled = None  # frees the prompts' keys and values

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, bool]]:
        """Draw one token for every row; those that finished leave, returned with whether a stop token ended them.

        Raises:
            FloatingPointError: the model gives numbers that are not finite.
        """
        state = self._state
        assert state is not None, f"a step with {len(self.rows)} rows"
        device = state.logits.device
        noise = torch.tensor([row.noise[len(row.tokens)] for row in self.rows], dtype=torch.float64, device=device)
        drawn = draw_tokens(state.logits, noise, self.settings)
        finished, kept = [], []
        for index, (row, token) in enumerate(zip(self.rows, drawn.tolist(), strict=True)):
            if token < 0:
                raise FloatingPointError(f"{row.key}: the logits are not finite: {CURE}")
            stopped = token in self.stop_ids
            if not stopped:
                row.tokens.append(token)
            if stopped or row.full:
                finished.append((row, stopped))
            else:
                kept.append(index)
        self._state = self._advance(state, kept, drawn)
        return finished

    def _advance(self, state: State, kept: list[int], drawn: torch.Tensor) -> State | None:
        """The state behind the tokens `drawn[kept]`; the other rows leave. None where no row is left."""
        everyone = len(kept) == len(self.rows)
        self.rows = [self.rows[index] for index in kept]
        if not kept:
            return None
        if not everyone:
            state, drawn = state.select(kept).without_padding(), drawn[kept]
        mask = functional.pad(state.mask, (0, 1), value=1)
        output = self.model(
            input_ids=drawn[:, None],
            attention_mask=mask,
            position_ids=state.positions[:, None],
            past_key_values=state.cache,
            use_cache=True,
        )
        return State(state.cache, mask, state.positions + 1, output.logits[:, -1])


@torch.inference_mode()
def prefill(model: PreTrainedModel, embeds: Sequence[torch.Tensor]) -> State:
    """Run prompts (S_i, D) through the language model, padded on the left to one length."""
    length = max(map(len, embeds))
    padded = torch.stack([functional.pad(embed, (0, 0, length - len(embed), 0)) for embed in embeds])
    lengths = torch.tensor([len(embed) for embed in embeds], device=padded.device)
    mask = (torch.arange(length, device=padded.device) >= (length - lengths)[:, None]).long()
    cache = DynamicCache()
    output = model(
        inputs_embeds=padded,
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return State(cache, mask, lengths, output.logits[:, -1])
