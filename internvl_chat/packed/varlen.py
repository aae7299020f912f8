"""Packed attention on a GPU: all segments of a row in one call of torch's variable-length Flash kernel.

A segment has fewer queries than keys where it has a prefix. The kernel puts its causal diagonal at the bottom right, as
segments need it, only where its backend is Flash; other backends put it at the top left. So the kernel is tried on a
small row first, and where it fails or answers otherwise, `varlen_refusal` says why and groups take its place. Windows
and attention sinks are tried apart: a kernel may lack them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from internvl_chat.packed.groups import build_groups, group_attention
from internvl_chat.packed.segments import Segment, Weighting, map_tensors
from internvl_chat.packed.sinks import sink_attention

HALF = (torch.bfloat16, torch.float16)  # all that the kernel takes
FURTHEST = 5e-2  # from float32, relative to the largest number: bfloat16 keeps 8 bits, a wrong mask is off by all
TRIAL = (Segment(0, 70), Segment(70, 5, 0, 70), Segment(75, 33, 0, 70), Segment(108, 20))
TRIAL_WINDOW = 24


@dataclass(frozen=True)
class VarlenIndex:
    """S segments as one call; their queries are the packed row itself, in its order.

    Attributes:
        keys: (M,) positions in the packed row of the keys of one segment after the other.
        query_ends: (S + 1,) int32, where each segment's queries end, from 0.
        key_ends: (S + 1,) int32 likewise of the keys.
        longest: most queries and most keys of a segment.
    """

    keys: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    longest: tuple[int, int]


def build_varlen(segments: Sequence[Segment]) -> VarlenIndex:
    """Index of a row that the segments cover."""
    ordered = sorted(segments, key=lambda s: s.start)
    spans = [(s.prefix_start, s.prefix_length) for s in ordered], [(s.start, s.length) for s in ordered]
    keys = [np.arange(start, start + length) for pair in zip(*spans, strict=True) for start, length in pair]
    lengths = [s.length for s in ordered], [s.num_keys for s in ordered]
    query_ends, key_ends = (torch.tensor([0, *np.cumsum(part)], dtype=torch.int32) for part in lengths)
    return VarlenIndex(torch.from_numpy(np.concatenate(keys)), query_ends, key_ends, (max(lengths[0]), max(lengths[1])))


def varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, index: VarlenIndex, weighting: Weighting
) -> torch.Tensor:
    """Outputs (N, H, D) of a packed row from (H, N, D) queries and (H_kv, N, D) keys and values, all half precision.

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
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    if window is not None and "window_size" not in known:
        raise ValueError("it has no windows")
    before = -1 if window is None else window - 1
    options: dict[str, Any] = {"window_size": (before, 0)} if "window_size" in known else {"is_causal": True}
    return varlen_attn, options | ({"enable_gqa": True} if "enable_gqa" in known else {})


@lru_cache
def varlen_refusal(
    device: torch.device, dtype: torch.dtype, *, windowed: bool = False, with_sinks: bool = False
) -> str:
    """Why rows of this type on this device do not go through the kernel; empty where they do. Tried once a process."""
    if device.type != "cuda":
        return f"the kernel needs a GPU, this is {device}"
    if dtype not in HALF:
        return f"the kernel takes bfloat16 and float16, this is {dtype}"
    return trial_error(device, dtype, windowed=windowed, with_sinks=with_sinks)


def trial_error(device: torch.device, dtype: torch.dtype, *, windowed: bool = False, with_sinks: bool = False) -> str:
    """What is wrong with the kernel's outputs and gradients on a small row, against groups in float32; empty if not."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(heads, 128, 64, generator=generator).to(device, dtype) for heads in (4, 2, 2)]
    states += [torch.linspace(-1, 3, 4).to(device, dtype)] if with_sinks else []
    window = TRIAL_WINDOW if windowed else None
    groups, restore = build_groups(TRIAL, window)
    placed = [map_tensors(group, lambda tensor: tensor.to(device)) for group in groups]
    index = map_tensors(build_varlen(TRIAL), lambda tensor: tensor.to(device))

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
        return varlen_attention(query, key, value, index, Weighting(None, 0.0, window, *sinks))

    def expected(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
        weighting = Weighting(None, 0.0, window, *sinks)
        parts = [group_attention(query, key, value, group, weighting) for group in placed]
        return torch.cat(parts)[restore.to(device)]

    try:
        found = _with_gradients(kernel, states)
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        return f"the kernel of torch {torch.__version__} does not run: {error}"
    wanted = _with_gradients(expected, [part.float() for part in states])
    away = max(((ours - true).abs().max() / true.abs().max()).item() for ours, true in zip(found, wanted, strict=True))
    if not away <= FURTHEST:  # NaN too
        return f"the kernel of torch {torch.__version__} is {away:.0%} off on a trial: its mask lies otherwise"
    return ""


def _with_gradients(attend: Callable[..., torch.Tensor], states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs, then gradients for each of the states of the sum of their squares, in float32."""
    leaves = [part.detach().requires_grad_() for part in states]
    output = attend(*leaves).float()
    return [output.detach(), *(grad.float() for grad in torch.autograd.grad(output.square().sum(), leaves))]
