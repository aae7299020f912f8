"""Drawing tokens: the probabilities of the candidates, and rows that bring their random numbers along.

Each row's numbers are drawn up front from its seed, so a sample does not depend on which rows it is decoded with.
Shapes: R rows, V vocabulary, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from tools.reasoning_data_pipeline.engines.protocol import SamplingSettings


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


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probs (R,) float32 in nats of tokens (R,), by the model itself: before temperature, top-k and top-p."""
    return logits.float().log_softmax(-1).gather(-1, tokens.clamp(min=0)[:, None]).squeeze(-1)


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
