"""The one-call form of packed attention: with a kernel in plain torch on a CPU, with torch's own on a GPU."""

import re
from functools import wraps

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import varlen

from internvl_chat.packed import varlen as packed_varlen
from internvl_chat.packed.attention import group_attention, shared_prefix_attention, trial_error, varlen_refusal
from internvl_chat.packed.layout import Segment, build_layout, build_varlen, map_tensors
from internvl_chat.packed.varlen import Weighting, varlen_attention

CPU = torch.device("cpu")
SEGMENTS = [Segment(0, 5), Segment(5, 3, 0, 5), Segment(8, 7, 0, 5), Segment(15, 4), Segment(19, 2, 15, 4)]
SEGMENTS += [Segment(21, 2, 0, 3), Segment(23, 3, 21, 2, ((0, 3),))]  # another question about the first image
NUM_TOKENS = 26


def attend(query, key, value, query_ends, key_ends, scale, diagonal):
    """What a variable-length kernel computes, one sequence at a time; `diagonal` from its numbers of queries, keys."""
    outputs = []
    for (q0, q1), (k0, k1) in zip(query_ends.unfold(0, 2, 1).tolist(), key_ends.unfold(0, 2, 1).tolist(), strict=True):
        mask = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(diagonal(q1 - q0, k1 - k0))
        parts = (part.transpose(0, 1)[None] for part in (query[q0:q1], key[k0:k1], value[k0:k1]))
        outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=True)[0])
    return torch.cat(outputs, 1).transpose(0, 1)


def bottom_right(num_queries, num_keys):
    return num_keys - num_queries


def kernel_of_212(query, key, value, query_ends, key_ends, max_q, max_k, *, scale, window_size, enable_gqa):
    assert window_size == (-1, 0) and enable_gqa and query_ends is not key_ends
    assert (max_q, max_k) == (query_ends.diff().max(), key_ends.diff().max())
    return attend(query, key, value, query_ends, key_ends, scale, bottom_right)


def kernel_of_210(query, key, value, query_ends, key_ends, max_q, max_k, is_causal, *, scale):
    assert is_causal and len(query[0]) == len(key[0])  # no grouped heads
    return attend(query, key, value, query_ends, key_ends, scale, bottom_right)


def scores(query, key, query_ends, key_ends, scale, window_size):
    """(H, N, M) scores of all queries with all keys, -inf where one does not see the other."""
    scores = torch.full((query.shape[1], len(query), len(key)), -torch.inf, dtype=query.dtype)
    for (q0, q1), (k0, k1) in zip(query_ends.unfold(0, 2, 1).tolist(), key_ends.unfold(0, 2, 1).tolist(), strict=True):
        ones = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        diagonal = bottom_right(q1 - q0, k1 - k0)
        seen = ones.tril(diagonal) & (ones.triu(diagonal - window_size[0]) if window_size[0] >= 0 else ones)
        keys = key[k0:k1].repeat_interleave(query.shape[1] // key.shape[1], 1)
        products = torch.einsum("qhd,khd->hqk", query[q0:q1], keys) * (scale or query.shape[-1] ** -0.5)
        scores[:, q0:q1, k0:k1] = products.masked_fill(~seen, -torch.inf)
    return scores


def kernel_of_today(
    query, key, value, query_ends, key_ends, max_q, max_k, *, scale, window_size, enable_gqa, return_aux=None
):
    """With windows, and the log-sum-exp for those who ask, which has no gradient."""
    products = scores(query, key, query_ends, key_ends, scale, window_size)
    values = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    output = torch.einsum("hqk,khd->qhd", products.softmax(-1), values)
    return (output, products.logsumexp(-1).detach()) if return_aux else output


def backward_of_today(grad, states, output, lse, ends, options):
    """As flash attention has it (arXiv 2307.08691, algorithm 2): weights from `lse`, their mean from `output`."""
    query, key, value = states
    repeats = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(repeats, 1) for part in (key, value))
    scale, window = options["scale"] or query.shape[-1] ** -0.5, options["window_size"]
    weights = (scores(query, key, *ends[:2], scale, window) - lse[..., None]).exp()
    of_weights = torch.einsum("qhd,khd->hqk", grad, values)
    of_scores = weights * (of_weights - (grad * output).sum(-1).T[..., None]) * scale
    of_keys, of_values = (
        torch.einsum("hqk,qhd->khd", part, other).unflatten(1, (-1, repeats)).sum(2)
        for part, other in ((of_scores, query), (weights, grad))
    )
    return torch.einsum("hqk,khd->qhd", of_scores, keys), of_keys, of_values


def kernel_aligned_otherwise(query, key, value, query_ends, key_ends, max_q, max_k, *, scale, window_size, enable_gqa):
    return attend(query, key, value, query_ends, key_ends, scale, lambda *_: 0)


def test_index_of_one_prompt_by_hand():
    # prompt prefix 0 1, chosen 2 3 4, rejected 5; given in another order
    index = build_varlen([Segment(5, 1, 0, 2), Segment(0, 2), Segment(2, 3, 0, 2)])
    assert index.keys.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 5]
    assert index.query_ends.tolist() == [0, 2, 5, 6] and index.query_ends.dtype == torch.int32
    assert index.key_ends.tolist() == [0, 2, 7, 10]
    assert index.longest == (3, 5)


@pytest.mark.parametrize("kernel", [kernel_of_212, kernel_of_210])
def test_equals_the_groups_with_grouped_heads(kernel, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, NUM_TOKENS, 8, dtype=torch.float64) for heads in (4, 2, 2))
    layout = build_layout(SEGMENTS)
    expected, _ = shared_prefix_attention(torch.nn.Module(), query, key, value, None, 0.3, shared_prefix=layout)
    found = varlen_attention(query[0], key[0], value[0], layout.varlen, Weighting(0.3))
    torch.testing.assert_close(found[None], expected, rtol=1e-12, atol=1e-12)
    before = torch.random.get_rng_state()
    assert trial_error(CPU, torch.bfloat16) == ""
    assert torch.equal(torch.random.get_rng_state(), before)  # that of the training


@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_windows_and_sinks_equal_the_groups_with_gradients(window, with_sinks, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernel_of_today)
    monkeypatch.setattr(packed_varlen, "kernel_backward", backward_of_today)
    torch.manual_seed(0)
    leaves = [torch.randn(heads, NUM_TOKENS, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    leaves += [torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)] if with_sinks else []
    layout, weighting = build_layout(SEGMENTS), Weighting(0.3, 0.0, window, *leaves[3:])
    found = varlen_attention(*leaves[:3], layout.varlen, weighting)
    groups, restore = layout.narrowed(window)
    expected = torch.cat([group_attention(*leaves[:3], group, weighting) for group in groups])[restore]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(found)
    grads, others = (torch.autograd.grad((output * direction).sum(), leaves) for output in (found, expected))
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-11)
    assert trial_error(CPU, torch.bfloat16, windowed=window is not None, with_sinks=with_sinks) == ""


@pytest.mark.parametrize(
    ("kernel", "kind", "reason"),
    [
        (kernel_of_210, {"windowed": True}, "does not run: it has no windows"),
        (kernel_of_212, {"with_sinks": True}, "does not run: .* 'return_aux'"),
        (kernel_of_today, {"with_sinks": True}, "does not run: .*_flash_attention_backward"),  # there is none for a CPU
    ],
)
def test_a_kernel_that_lacks_windows_or_sinks_is_refused_for_them_alone(kernel, kind, reason, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    assert re.search(reason, trial_error(CPU, torch.bfloat16, **kind))
    assert trial_error(CPU, torch.bfloat16) == ""


def test_a_kernel_with_its_diagonal_elsewhere_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernel_aligned_otherwise)
    assert "its mask lies otherwise" in trial_error(CPU, torch.bfloat16)


def test_both_head_sizes_of_the_published_models_are_tried(monkeypatch):
    """A kernel has code of its own for each."""

    @wraps(kernel_of_212)
    def wrong_for_128(query, *args, **kwargs):
        kernel = kernel_aligned_otherwise if query.shape[-1] == 128 else kernel_of_212
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", wrong_for_128)
    assert "heads of 128: its mask lies otherwise" in trial_error(CPU, torch.bfloat16)


@pytest.mark.parametrize("part", ["output", "gradient"])
def test_a_kernel_that_gives_nan_is_refused(part, monkeypatch):
    @wraps(kernel_of_today)
    def broken(*args, **kwargs):
        output = kernel_of_today(*args, **kwargs)
        if part == "gradient":
            output.register_hook(lambda grad: grad * torch.nan)
            return output
        return output * torch.nan

    monkeypatch.setattr(varlen, "varlen_attn", broken)
    assert "nan% off on a trial" in trial_error(CPU, torch.bfloat16)


def test_a_kernel_that_does_not_run_is_refused_with_the_reason(monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(varlen, "varlen_attn", missing)
    assert "does not run: no kernel image" in trial_error(CPU, torch.bfloat16)


def test_the_trial_kernel_of_this_machine_is_only_tried_on_a_gpu_in_half_precision():
    assert varlen_refusal(CPU, torch.bfloat16) == "the kernel needs a GPU, this is cpu"
    assert "this is torch.float32" in varlen_refusal(torch.device("cuda", 0), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
def test_the_kernel_of_this_gpu_agrees_with_groups_in_float32(window, with_sinks):
    device = torch.device("cuda", 0)
    kind = {"windowed": window is not None, "with_sinks": with_sinks}
    assert varlen_refusal(device, torch.bfloat16, **kind) == ""
    torch.manual_seed(0)
    sinks = torch.randn(8, device=device) if with_sinks else None
    query, key, value = (torch.randn(1, heads, NUM_TOKENS, 64, device=device) for heads in (8, 2, 2))
    layout = map_tensors(build_layout(SEGMENTS), lambda tensor: tensor.to(device))

    def run(dtype):
        states = (part.to(dtype) for part in (query, key, value))
        options = {"shared_prefix": layout, "sliding_window": window, "s_aux": sinks}
        return shared_prefix_attention(torch.nn.Module(), *states, None, **options)[0].float()

    torch.testing.assert_close(run(torch.bfloat16), run(torch.float32), rtol=2e-2, atol=2e-2)
