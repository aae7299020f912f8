"""Packed attention on a GPU: all segments in one call of torch's variable-length Flash kernel.

Attention sinks, which the kernel lacks, are exact, forward and backward, from its log-sum-exp. A sink s stands in the
denominator of the softmax of its head alone: weights are e^score / (e^lse + e^s), where lse is the log-sum-exp of the
scores. So the output is the kernel's times sigmoid(lse - s), and lse' = log(e^lse + e^s). The backward kernel makes the
weights again, from scores and lse, and the scores' gradients from them and the products of the output with its
gradient. Given lse' and the output with the sink, it therefore returns the gradients of queries, keys and values with
the sink. The gradient of s is minus its own weight e^(s - lse') times the product.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from internvl_chat.packed.layout import VarlenIndex

Ends = tuple[Tensor, Tensor, int, int]  # of queries and of keys, most queries and most keys of a segment


@dataclass(frozen=True)
class Weighting:
    """How the scores of what a query sees become weights.

    Attributes:
        scaling: of the scores, None for 1/sqrt(D).
        dropout: probability that a weight is left out.
        window: a query sees so many keys, itself the last of them; None for all. It counts positions, not places in the
            pack: an answer's first token has the end of its prompt in its window.
        sinks: (H,) a logit per head that stands in the denominator of the softmax and gives nothing to the output;
            None for no such term.
    """

    scaling: float | None = None
    dropout: float = 0.0
    window: int | None = None
    sinks: torch.Tensor | None = None


def varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, index: VarlenIndex, weighting: Weighting
) -> torch.Tensor:
    """Outputs (N, H, D) of a pack from (H, N, D) queries and (H_kv, N, D) keys and values, all half precision.

    The kernel has no dropout.
    """
    kernel, options = _kernel(weighting.window)
    if "enable_gqa" not in options:
        key, value = (states.repeat_interleave(len(query) // len(states), dim=0) for states in (key, value))
    picked = [states.transpose(0, 1).index_select(0, index.keys) for states in (key, value)]
    states = query.transpose(0, 1).contiguous(), *picked
    ends = index.query_ends, index.key_ends, *index.longest
    options["scale"] = weighting.scaling
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        if weighting.sinks is not None:
            return sink_attention(kernel, states, weighting.sinks, ends, options)
        return kernel(*states, *ends, **options)


def _kernel(window: int | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The kernel, and its options for causal attention in this version of torch.

    Raises:
        ImportError: it has none.
        ValueError: the kernel has no windows.
    """
    from internvl_chat.model.upstream import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    if window is not None and "window_size" not in known:
        raise ValueError("it has no windows")
    before = -1 if window is None else window - 1
    options: dict[str, Any] = {"window_size": (before, 0)} if "window_size" in known else {"is_causal": True}
    return varlen_attn, options | ({"enable_gqa": True} if "enable_gqa" in known else {})


def sink_attention(
    kernel: Callable[..., Any],
    states: tuple[Tensor, ...],
    sinks: Tensor,
    ends: Ends,
    options: dict[str, Any],
) -> Tensor:
    """Outputs (N, H, D) of a variable-length kernel with attention sinks.

    Args:
        kernel: `varlen_attn` of torch.
        states: (N, H, D) queries, (M, H_kv, D) keys and values.
        sinks: (H,) logits.
        ends: where segments end, as the kernel takes them.
        options: keywords of the kernel, `scale` and `window_size` among them.

    Raises:
        ImportError: this version of the kernel does not return its log-sum-exp.
    """
    return _SinkAttention.apply(*states, sinks, kernel, ends, options)


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, kernel: Any, ends: Ends, options: Any
    ) -> Tensor:
        from internvl_chat.model.upstream import AuxRequest

        output, lse = kernel(query, key, value, *ends, return_aux=AuxRequest(lse=True), **options)  # lse (H, N)
        logits = sinks.to(lse.dtype, copy=True)[:, None]  # kept itself, it would be gone where ZeRO-3 frees parameters
        output = (output * torch.sigmoid(lse - logits).T[..., None]).to(output.dtype)
        ctx.save_for_backward(query, key, value, logits, output, torch.logaddexp(lse, logits))
        ctx.ends, ctx.options = ends, options
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, logits, output, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_states = kernel_backward(grad, (query, key, value), output, lse, ctx.ends, ctx.options)
        products = (grad.to(lse.dtype) * output).sum(-1).T  # (H, N)
        of_sinks = -((logits - lse).exp() * products).sum(1)
        return *of_states, of_sinks, None, None, None


def kernel_backward(
    grad: Tensor, states: tuple[Tensor, ...], output: Tensor, lse: Tensor, ends: Ends, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values by the backward pass of the kernel, which torch has no public name for."""
    before, after = options["window_size"]
    from internvl_chat.model.upstream import _flash_attention_backward

    return _flash_attention_backward(
        grad,
        *states,
        output,
        lse,
        *ends,
        0.0,  # dropout
        before < 0,  # causal, without a window
        torch.zeros(2, dtype=torch.uint64, device=grad.device),  # the state of dropout's generator
        torch.empty(0, device=grad.device),
        scale=options["scale"],
        window_size_left=before,
        window_size_right=after,
    )
