"""Attention over packed prompts whose answers share a prefix, registered with transformers under one name.

Each prompt prefix attends to itself, each answer branch to its prefix and itself, all causal with the diagonal at the
bottom right; in layers with a sliding window to the last of these keys alone. The layout is built once per batch and
reaches every layer as the keyword `shared_prefix` of the model's forward; window and attention sinks are the layer's
own keywords. In half precision on a GPU all segments run in one call of a variable-length kernel (`varlen`), elsewhere
in one padded call per group.

The kernel has its causal diagonal at the bottom right, as segments need it, only where its backend is Flash; others put
it at the top left. So it is tried on a few segments first, and where it fails or answers otherwise, `varlen_refusal`
says why and groups take its place. Windows and attention sinks are tried apart: a kernel may lack them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from internvl_chat.model import InternVLChatModel
from internvl_chat.packed.layout import Segment, SegmentGroup, SharedPrefixLayout, build_layout, map_tensors
from internvl_chat.packed.logps import install_logps_head
from internvl_chat.packed.sequence_parallel import SequenceGroup
from internvl_chat.packed.varlen import Weighting, varlen_attention

ATTENTION_NAME = "shared_prefix"
SINK_WIDTH = 8  # dimensions that hold an attention sink: GPU kernels with a mask take multiples of 8
HALF = (torch.bfloat16, torch.float16)  # all that the kernel takes
FURTHEST = 5e-2  # from float32, relative to the largest number: bfloat16 keeps 8 bits, a wrong mask is off by all
TRIAL = (Segment(0, 70), Segment(70, 5, 0, 70), Segment(75, 33, 0, 70), Segment(108, 20))
TRIAL_WINDOW = 24
TRIAL_HEAD_SIZES = (64, 128)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    shared_prefix: SharedPrefixLayout | None = None,
    sequence_group: SequenceGroup | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention function in the form of transformers' interface.

    Args:
        module: the calling layer.
        query: (1, H, N, D) of the pack.
        key: (1, H_kv, N, D), H a multiple of H_kv.
        value: like key.
        attention_mask: ignored; the layout says who sees whom.
        scaling: of the scores, None for 1/sqrt(D).
        dropout: probability, 0 outside training; the variable-length kernel has none, so groups run then.
        sliding_window: keys that a query sees, itself the last; None for all. By position within prompt and answer.
        s_aux: (H,) attention sinks, the name that transformers gives them: see `Weighting`.
        shared_prefix: layout of the pack.
        sequence_group: ranks that share the pack; the N positions here are this rank's.

    Returns:
        (1, N, H, D) and None for the attention weights.

    Raises:
        ValueError: no layout was passed; plain attention would mix the answers in silence.
    """
    if shared_prefix is None:
        name = type(module).__name__
        raise ValueError(f"{name}: attention {ATTENTION_NAME!r} needs shared_prefix=; use sdpa for unpacked batches")
    weighting = Weighting(scaling, dropout, sliding_window, s_aux)
    if sequence_group is None:
        return _attend(query, key, value, shared_prefix, weighting), None
    if key.shape[1] % sequence_group.size:
        key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    query, key, value = map(sequence_group.to_heads, (query, key, value))
    if s_aux is not None:
        weighting = replace(weighting, sinks=sequence_group.own(s_aux, 0))
    return sequence_group.to_positions(_attend(query, key, value, shared_prefix, weighting)), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedPrefixLayout,
    weighting: Weighting,
) -> Tensor:
    """Outputs (1, N, H, D) of a whole pack."""
    dtype, window = working_dtype(query), weighting.window
    kind = {"windowed": window is not None, "with_sinks": weighting.sinks is not None}
    if not weighting.dropout and not varlen_refusal(query.device, dtype, **kind):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return varlen_attention(query[0], key[0], value[0], layout.varlen, weighting)[None]
    return grouped_attention(query[0], key[0], value[0], layout, weighting)[None]


def working_dtype(states: Tensor) -> torch.dtype:
    """Type that attention runs in: autocast's, which rotary embeddings leave for float32, else that of the states."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def no_mask(*_: Any, **__: Any) -> None:
    """Mask function of transformers' interface: the layout takes the place of a mask."""


def register_attention() -> None:
    """Make the name known to transformers; safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, no_mask)


def use_shared_prefix(model: InternVLChatModel) -> None:
    """Switch the language model to packs: attention and LM head. Do it before any engine wraps the model.

    Generation with this model object needs `ordinary_attention`.

    Raises:
        ValueError: its attention does more than the packed one computes.
    """
    check_attention(model.language_model)
    register_attention()
    model.language_model.set_attn_implementation(ATTENTION_NAME)
    install_logps_head(model.language_model)


@contextmanager
def ordinary_attention(model: InternVLChatModel) -> Iterator[None]:
    """Within, a model that was switched to packs attends as any other, so that it can write answers."""
    has_sinks = any(name.endswith(".sinks") for name, _ in model.language_model.named_parameters())
    model.language_model.set_attn_implementation("eager" if has_sinks else "sdpa")
    try:
        yield
    finally:
        model.language_model.set_attn_implementation(ATTENTION_NAME)


def check_attention(language_model: PreTrainedModel) -> None:
    """Refuse layers of other kinds and capped scores, which packs would ignore in silence, and empty windows."""
    config = language_model.config
    others = sorted({*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"})
    if getattr(config, "attn_logit_softcapping", None):
        others.append("attn_logit_softcapping")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < 1:
        others.append(f"sliding_window {window}")
    if others:
        raise ValueError(
            f"{config.model_type} has {', '.join(others)}, which training on packed rows does not compute; "
            "it trains InternLM2, InternLM3, Llama, Qwen2, Qwen3 and GPT-OSS, dense and with experts"
        )


def kernel_refusals(language_model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Which kinds of layers are attended to in groups, not by the variable-length kernel, and why."""
    sinks = any(name.endswith(".sinks") for name, _ in language_model.named_parameters())
    kinds = sorted(set(getattr(language_model.config, "layer_types", None) or ["full_attention"]))
    refusals = [varlen_refusal(device, dtype, windowed=k == "sliding_attention", with_sinks=sinks) for k in kinds]
    return [f"{kind}: {refusal}" for kind, refusal in zip(kinds, refusals, strict=True) if refusal]


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: SharedPrefixLayout, weighting: Weighting
) -> Tensor:
    """Outputs (N, H, D) of all packed tokens, group by group, from (H, N, D) queries, (H_kv, N, D) keys and values."""
    groups, restore = layout.narrowed(weighting.window)
    outputs = [group_attention(query, key, value, group, weighting) for group in groups]
    return torch.cat(outputs).index_select(0, restore)


def group_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: SegmentGroup,
    weighting: Weighting,
) -> Tensor:
    """Real outputs (n, H, D) of a group, built for the window, from (H, N, D) queries, (H_kv, N, D) keys and values."""

    def gather(states: Tensor, index: Tensor) -> Tensor:
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


@lru_cache
def varlen_refusal(
    device: torch.device, dtype: torch.dtype, *, windowed: bool = False, with_sinks: bool = False
) -> str:
    """Why packs of this type on this device do not go through the kernel; empty where they do. Tried once a process."""
    if device.type != "cuda":
        return f"the kernel needs a GPU, this is {device}"
    if dtype not in HALF:
        return f"the kernel takes bfloat16 and float16, this is {dtype}"
    return trial_error(device, dtype, windowed=windowed, with_sinks=with_sinks)


def trial_error(device: torch.device, dtype: torch.dtype, *, windowed: bool = False, with_sinks: bool = False) -> str:
    """What is wrong with the kernel's outputs and gradients on a few segments, against groups in float32; empty if not.

    Tried with both head sizes of the published models, for which the kernel has code of its own.
    """
    layout = map_tensors(build_layout(TRIAL), lambda tensor: tensor.to(device))
    window = TRIAL_WINDOW if windowed else None

    def kernel(query: Tensor, key: Tensor, value: Tensor, *sinks: Tensor) -> Tensor:
        return varlen_attention(query, key, value, layout.varlen, Weighting(None, 0.0, window, *sinks))

    def expected(query: Tensor, key: Tensor, value: Tensor, *sinks: Tensor) -> Tensor:
        return grouped_attention(query, key, value, layout, Weighting(None, 0.0, window, *sinks))

    for head_size in TRIAL_HEAD_SIZES:
        generator = torch.Generator().manual_seed(0)
        states = [torch.randn(heads, 128, head_size, generator=generator).to(device, dtype) for heads in (4, 2, 2)]
        states += [torch.linspace(-1, 3, 4).to(device, dtype)] if with_sinks else []
        try:
            found = _with_gradients(kernel, states)
        except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
            return f"the kernel of torch {torch.__version__} does not run: {error}"
        wanted = _with_gradients(expected, [part.float() for part in states])
        errors = [(ours - true).abs().max() / true.abs().max() for ours, true in zip(found, wanted, strict=True)]
        away = torch.stack(errors).max().item()
        if not away <= FURTHEST:  # NaN too
            told = f"is {away:.0%} off on a trial with heads of {head_size}: its mask lies otherwise"
            return f"the kernel of torch {torch.__version__} {told}"
    return ""


def _with_gradients(attend: Callable[..., Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, then gradients for each of the states of the sum of their squares, in float32."""
    leaves = [part.detach().requires_grad_() for part in states]
    output = attend(*leaves).float()
    return [output.detach(), *(grad.float() for grad in torch.autograd.grad(output.square().sum(), leaves))]
