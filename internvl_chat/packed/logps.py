"""A pack through a model: log-probs of its answers, without ever holding the (N, V) logits.

With V = 150,000 the logits of one pair, and what autograd keeps of them, outweigh the model. Here the LM head runs on
chunks of positions that have a label; only one float per position is kept, and the backward pass computes the logits of
a chunk again: four products of the head's size in place of three.

`LogpsHead` is that as a module. It stands in the model where its LM head stood, because what gathers a partitioned
weight (ZeRO-3, FSDP) watches a module's forward: one call gathers once, however many chunks a rank has. A checkpointed
call per chunk would gather per chunk, and ranks with unlike numbers of labels would wait for each other forever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.packing import PackedPairs

CHUNK_SIZE = 1024  # positions whose logits are held at once: 0.6 GB in float32 with V = 150,000


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    positions: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor:
    """log softmax(hidden weight^T + bias)[label] per position, exact, with gradients for hidden, weight and bias.

    A position may be asked for K labels, alternatives of the token that follows, as a critic is. The product runs in
    the type of `hidden`, under autocast in its type; the log-softmax in float32, or float64 where `hidden` is that.
    Where there are several chunks, their weight gradients are summed in float32.

    Args:
        hidden: (..., D), the decoder's output at positions that predict `labels`: already shifted.
        weight: (V, D), the LM head's; may be frozen or shared with the embedding.
        labels: (...) or (..., K) int64 in [0, V), or IGNORE_INDEX where there is none: those positions cost nothing.
        bias: (V,) or None.
        positions: (L,) where the flattened labels have one. None: they are looked up, for which the host has to wait.
        chunk_size: positions per chunk, >= 1.

    Returns:
        In the shape of `labels` float32 (float64 for float64), <= 0; 0 where there is no label.

    Raises:
        ValueError: shapes that do not fit, or a chunk size below 1.
    """
    alternatives = labels if labels.dim() == hidden.dim() else labels[..., None]  # (..., K)
    if hidden.shape[:-1] != alternatives.shape[:-1] or hidden.shape[-1] != weight.shape[-1] or weight.dim() != 2:
        shapes = f"hidden {tuple(hidden.shape)}, labels {tuple(labels.shape)}, weight {tuple(weight.shape)}"
        raise ValueError(f"need hidden (..., D), labels (...) or (..., K), weight (V, D), got {shapes}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size {chunk_size} must be at least 1")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    flat = alternatives.flatten(0, -2)
    kept = (flat[:, 0] != IGNORE_INDEX).nonzero().squeeze(-1) if positions is None else positions
    hidden = hidden.reshape(-1, hidden.shape[-1])[kept]
    logps = _ChunkedLogps.apply(hidden, weight, bias, flat[kept], chunk_size)
    return logps.new_zeros(flat.shape).index_copy(0, kept, logps).view(labels.shape)


class _ChunkedLogps(torch.autograd.Function):
    """hidden (N, D), weight (V, D), bias (V,), labels (N, K) -> (N, K): z[label] - logsumexp(z) with z = W h + b."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_size: int
    ) -> Tensor:
        head = _cast(weight, bias, hidden.dtype)
        logps = hidden.new_empty(labels.shape, dtype=_precise(hidden))
        normalizers = logps.new_empty(len(hidden), 1)
        for part in _chunks(len(hidden), chunk_size):
            logits = functional.linear(hidden[part], *head).to(logps.dtype)
            normalizers[part] = logits.logsumexp(-1, keepdim=True)
            logps[part] = logits.gather(-1, labels[part]) - normalizers[part]
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(hidden, weight, bias, labels, normalizers)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, normalizers = ctx.saved_tensors
        head = _cast(weight, bias, hidden.dtype)
        # A single chunk needs no float32 sum, which for the weight would be the largest tensor here.
        sums = _precise(hidden) if len(hidden) > ctx.chunk_size else hidden.dtype
        by_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight, dtype=sums) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias, dtype=sums) if ctx.needs_input_grad[2] else None
        for part in _chunks(len(hidden), ctx.chunk_size):
            # d logp / d z = onehot(label) - softmax(z), the softmax from the logits, computed again
            by_logits = functional.linear(hidden[part], *head).to(grad.dtype)
            by_logits.sub_(normalizers[part]).exp_().mul_(-grad[part].sum(-1, keepdim=True))
            by_logits.scatter_add_(-1, labels[part], grad[part])
            by_logits = by_logits.to(hidden.dtype)
            if by_hidden is not None:
                by_hidden[part] = by_logits @ head[0]
            if by_weight is not None:
                by_weight += by_logits.T @ hidden[part]
            if by_bias is not None:
                by_bias += by_logits.sum(0)
        return by_hidden, *_cast(by_weight, by_bias, weight.dtype), None, None


def _cast(weight: Any, bias: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """Weight and bias in another type, None staying None."""
    return weight if weight is None else weight.to(dtype), bias if bias is None else bias.to(dtype)


def _precise(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _chunks(length: int, chunk_size: int) -> list[slice]:
    return [slice(start, start + chunk_size) for start in range(0, length, chunk_size)]


class LogpsHead(nn.Linear):
    """An LM head that also gives log-probs: `head(hidden)` are logits, `head(hidden, labels)` is `token_logps`."""

    @classmethod
    def sharing(cls, head: nn.Linear) -> LogpsHead:
        """A LogpsHead with the very parameters of `head`, which may be tied or partitioned."""
        with_bias = head.bias is not None
        new = cls(head.in_features, head.out_features, bias=with_bias, device="meta")
        new.weight, new.bias = head.weight, head.bias
        return new

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        chunk_size: int = CHUNK_SIZE,
        *,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits (..., V), or with labels, (...) or (..., K), their log-probs by `token_logps`."""
        if labels is None:
            return super().forward(hidden)
        return token_logps(hidden, self.weight, labels, self.bias, positions=positions, chunk_size=chunk_size)


def install_logps_head(language_model: PreTrainedModel) -> None:
    """Replace the model's LM head by a `LogpsHead` on the same parameters; do it before any engine wraps the model.

    State-dict keys, tying and generation stay as they were.

    Args:
        language_model: a causal language model with `get_output_embeddings` and `set_output_embeddings`.

    Raises:
        TypeError: its LM head is not a plain linear layer, such as one with LoRA.
    """
    head = language_model.get_output_embeddings()
    if isinstance(head, LogpsHead):
        return
    if type(head) is not nn.Linear:
        raise TypeError(f"the LM head is a {type(head).__name__}: log-probs need a plain torch.nn.Linear there")
    language_model.set_output_embeddings(LogpsHead.sharing(head))


def sequence_logps(token_logps: Tensor, sequence_ids: Tensor | None = None, num_sequences: int | None = None) -> Tensor:
    """Sum token log-probs over each answer, in float64: a float32 sum over 1000 tokens is off by up to 1e-3 nats.

    Args:
        token_logps: (B, S) padded, or (N,) packed; 0 where there is no label, as `token_logps` gives them.
        sequence_ids: (N,) int64 in [0, num_sequences), the answer of each packed position; None for (B, S).
        num_sequences: B of a pack.

    Returns:
        (B,) float64: log pi(y | x) in nats.

    Raises:
        ValueError: only one of sequence_ids and num_sequences, or ids of another shape.
    """
    if (sequence_ids is None) != (num_sequences is None):
        raise ValueError(f"packs need both sequence_ids and num_sequences, got {sequence_ids}, {num_sequences}")
    if sequence_ids is None or num_sequences is None:
        return token_logps.double().sum(-1)
    if sequence_ids.shape != token_logps.shape:
        raise ValueError(f"{tuple(sequence_ids.shape)} sequence_ids for {tuple(token_logps.shape)} token_logps")
    return token_logps.new_zeros(num_sequences, dtype=torch.float64).index_add(0, sequence_ids, token_logps.double())


def answer_logps(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Log-probs (A,) of the distinct answers of a packed batch, float64 nats; vision tower and prompts run once.

    Args:
        model: the policy or the reference, wrapped or not, switched by `use_shared_prefix`.
        batch: of `collate_packed`; `pixel_values` may be normalised already.
    """
    pack: PackedPairs = batch["packed"]
    logps = label_logps(model, batch, pack.labels, pack.label_positions)
    return sequence_logps(logps, pack.answer_ids, len(pack.lengths))


def label_logps(model: nn.Module, batch: Mapping[str, Any], labels: Tensor, positions: Tensor) -> Tensor:
    """Log-probs of labels of a packed batch, in their shape, nats; of no meaning where there is none.

    Args:
        model: as of `answer_logps`.
        batch: with its pack as `packed`.
        labels: (N,) or (N, K), as of `token_logps`.
        positions: (L,) that have a label.
    """
    pack = batch["packed"]
    return model(
        pixel_values=batch["pixel_values"],
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        image_tiles=batch["image_tiles"],
        image_positions=pack.image_positions,
        shared_prefix=pack.layout,
        head_labels=labels[None],
        head_positions=positions,
        use_cache=False,
    ).logits[0]
