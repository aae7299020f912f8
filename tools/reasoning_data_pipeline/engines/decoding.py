"""Sampling many answers at once: rows of different prompts in one batch, which finished rows leave and new ones join.

A prompt is computed once, and its keys and values are held once for all its rows (`shared_prompt`). The random numbers
of a row are drawn up front from its seed, so a sample does not depend on which rows it is decoded with.
Shapes: R rows, P prompts, S prompt tokens, D width, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from tools.reasoning_data_pipeline.engines.protocol import SamplingSettings
from tools.reasoning_data_pipeline.engines.shared_prompt import (
    BranchLayout,
    OwnStates,
    PromptGroup,
    PromptMembers,
    attending,
    register_attention,
)

LIKELIEST = 128  # tokens of a whole vocabulary that are sorted: hardly any draw falls behind them
CURE = "the weights are damaged, or the number format is too small for them; fetch the checkpoint again"


@dataclass
class Row:
    """One answer in the making.

    Attributes:
        key: of the request.
        sample: index of the answer.
        noise: one number in [0, 1) per token that may be drawn.
        tokens: drawn so far, without the one that ended the answer.
        end: that one; None where it has not come.
        logprobs: of all these, where they are asked for.
    """

    key: str
    sample: int
    noise: np.ndarray
    tokens: list[int] = field(default_factory=list)
    end: int | None = None
    logprobs: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, key: str, sample: int, seed: int, max_new_tokens: int) -> Row:
        """A row without tokens yet."""
        return cls(key, sample, np.random.Generator(np.random.Philox(seed)).random(max_new_tokens))

    @property
    def finished(self) -> bool:
        """Whether a stop token came, or no more tokens may be drawn."""
        return self.end is not None or len(self.tokens) == len(self.noise)

    @property
    def drawn(self) -> tuple[int, ...]:
        """All ids as drawn, the one that ended the answer included."""
        return tuple(self.tokens) if self.end is None else (*self.tokens, self.end)


@dataclass
class Branch:
    """A row and the prompt that it continues: the one at place `prompt` of `group`."""

    row: Row
    group: PromptGroup
    prompt: int


class DecodingBatch:
    """The rows that are being decoded, and those that wait behind prompts that were computed."""

    def __init__(
        self, model: PreTrainedModel, settings: SamplingSettings, stop_ids: frozenset[int], *, logprobs: bool = False
    ) -> None:
        """Take the language model, how to draw, the tokens that end an answer, and whether log-probs are kept."""
        register_attention()
        self.model, self.settings, self.stop_ids, self.logprobs = model, settings, stop_ids, logprobs
        self._branches: list[Branch] = []
        self._waiting: deque[Branch] = deque()
        self._own = OwnStates(model.device)
        self._members: tuple[PromptMembers, ...] = ()
        self._logits = torch.empty(0)

    @property
    def rows(self) -> list[Row]:
        """The rows that are being decoded."""
        return [branch.row for branch in self._branches]

    @property
    def waiting(self) -> bool:
        """Whether rows wait for a place."""
        return bool(self._waiting)

    def queue(self, group: PromptGroup, rows: Iterable[Sequence[Row]]) -> None:
        """Let the rows of each prompt of a group wait; none may be waiting."""
        assert not self._waiting, f"rows still wait: {self._waiting}"
        self._waiting.extend(Branch(row, group, prompt) for prompt, of_prompt in enumerate(rows) for row in of_prompt)

    def admit(self, count: int) -> None:
        """Let up to `count` waiting rows join; some must be waiting."""
        assert self._waiting, f"no rows wait for {count} places"
        new = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        first = torch.stack([branch.group.logits[branch.prompt] for branch in new])
        self._logits = torch.cat([self._logits, first]) if self._branches else first
        self._branches += new
        self._own.grow(len(new))
        self._members = self._regroup()

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Draw one token for every row; those that finished leave and are returned.

        Raises:
            FloatingPointError: the model gives numbers that are not finite.
        """
        rows, logits = self.rows, self._logits
        noise = torch.tensor([row.noise[len(row.tokens)] for row in rows], dtype=torch.float64, device=logits.device)
        drawn = draw_tokens(logits, noise, self.settings)
        if self.logprobs:
            for row, logprob in zip(rows, token_logprobs(logits, drawn).tolist(), strict=True):
                row.logprobs.append(logprob)
        for row, token in zip(rows, drawn.tolist(), strict=True):
            self._add(row, token)
        finished = [row for row in rows if row.finished]
        if finished:
            drawn = drawn[self._leave()]
        if self._branches:
            self._logits = self._advance(drawn)
        return finished

    def _add(self, row: Row, token: int) -> None:
        if token < 0:
            raise FloatingPointError(f"{row.key}: the logits are not finite: {CURE}")
        if token in self.stop_ids:
            row.end = token
        else:
            row.tokens.append(token)

    def _leave(self) -> list[int]:
        """Drop the finished rows and let the last ones take their places; where the rows that stay were."""
        finished = [branch.row.finished for branch in self._branches]
        stay = finished.count(False)
        movers = iter(index for index in range(stay, len(finished)) if not finished[index])
        kept = [next(movers) if finished[index] else index for index in range(stay)]
        self._branches = [self._branches[index] for index in kept]
        self._own.keep(kept)
        self._members = self._regroup()
        return kept

    def _regroup(self) -> tuple[PromptMembers, ...]:
        """The rows by the prompts that they continue; groups of which half is done are cut down to the rest."""
        alive = [*self._branches, *self._waiting]
        for group in {id(branch.group): branch.group for branch in alive}.values():
            asked = sorted({branch.prompt for branch in alive if branch.group is group})
            if 2 * len(asked) <= len(group.lengths):
                self._replace(group, asked)
        groups = {id(branch.group): branch.group for branch in self._branches}
        return tuple(
            PromptMembers.of(group, [(row, b.prompt) for row, b in enumerate(self._branches) if b.group is group])
            for group in groups.values()
        )

    def _replace(self, group: PromptGroup, prompts: Sequence[int]) -> None:
        smaller = group.select(prompts)
        for branch in [*self._branches, *self._waiting]:
            if branch.group is group:
                branch.group, branch.prompt = smaller, prompts.index(branch.prompt)

    def _advance(self, tokens: Tensor) -> Tensor:
        """Logits (R, V) behind one more token (R,) of each row."""
        positions = torch.empty_like(tokens)
        for members in self._members:
            positions[members.order] = members.prompt_lengths
        positions += self._own.lengths
        self._own.begin_token()
        with attending(self.model):
            output = self.model(
                input_ids=tokens[:, None],
                position_ids=positions[:, None],
                past_key_values=self._own,
                use_cache=True,
                branches=BranchLayout(self._members, self._own),
            )
        return output.logits[:, -1]


def candidate_probabilities(logits: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
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


def draw_tokens(logits: Tensor, noise: Tensor, settings: SamplingSettings) -> Tensor:
    """One token id per row (R,) by inversion: logits (R, V), noise (R,) float64 uniform in [0, 1); -1 for NaN.

    Of a whole vocabulary only the likeliest tokens are sorted, and all of them for rows whose number falls behind
    these: the same tokens, in a fraction of the time.
    """
    keeps_all = settings.temperature > 0 and settings.top_k == 0 and settings.top_p == 1
    if not keeps_all or logits.shape[-1] <= LIKELIEST:
        return _invert(noise, *candidate_probabilities(logits, settings))
    scores = logits.float() / settings.temperature
    likeliest, ids = scores.topk(LIKELIEST)
    probabilities = (likeliest.double() - scores.double().logsumexp(-1, keepdim=True)).exp()
    drawn = _invert(noise, probabilities, ids, total=1.0)
    behind = noise >= probabilities.sum(-1)
    if behind.any():
        drawn[behind] = _invert(noise[behind], *candidate_probabilities(logits[behind], settings))
    return drawn


def _invert(noise: Tensor, probabilities: Tensor, ids: Tensor, total: float | None = None) -> Tensor:
    """The ids (R,) at which probabilities (R, K), added up, pass that share of their total; -1 where not finite."""
    cumulative = probabilities.cumsum(-1)
    target = noise[:, None] * (cumulative[:, -1:] if total is None else total)
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=ids.shape[-1] - 1)
    return ids.gather(-1, index).squeeze(-1).where(cumulative[:, -1].isfinite(), -1)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs (R,) float32 in nats of tokens (R,), by the model itself: before temperature, top-k and top-p."""
    return logits.float().log_softmax(-1).gather(-1, tokens.clamp(min=0)[:, None]).squeeze(-1)


@torch.inference_mode()
def prefill(model: PreTrainedModel, embeds: Sequence[Tensor]) -> PromptGroup:
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
    keys, values = zip(*((layer.keys, layer.values) for layer in cache.layers), strict=True)
    return PromptGroup(keys, values, lengths, output.logits[:, -1])
