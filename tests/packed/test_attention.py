"""Packed attention against masked attention over whole rows, and its layout by hand."""

import pytest
import torch
import torch.nn.functional as F

from internvl_chat.packed import attention
from internvl_chat.packed.attention import shared_prefix_attention, working_dtype
from internvl_chat.packed.layout import MOST_PADDING, Segment, build_layout, cut_spans, group_segments

SEGMENTS = [
    Segment(0, 5),
    Segment(5, 3, 0, 5),
    Segment(8, 7, 0, 5),
    Segment(15, 40),
    Segment(55, 2, 15, 40),
    Segment(57, 9, 15, 40),
    Segment(66, 1),
    Segment(67, 4, 66, 1),
    Segment(71, 6),  # a prompt of one token has no prefix: its branch stands alone
    Segment(77, 9, 15, 30),  # a prompt that leaves the one at 15 after 30 tokens, and its two answers
    Segment(86, 3, 77, 9, ((15, 30),)),
    Segment(89, 12, 77, 9, ((15, 30),)),
    Segment(101, 2, 77, 4, ((15, 30),)),  # one that leaves that again, with an answer
    Segment(103, 5, 101, 2, ((15, 30), (77, 4))),
]
NUM_TOKENS = 108


def visible(segments, num_tokens, window=None):
    """(N, N) bool: the definition of the layout, position by position, with a window by position too."""
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for s in segments:
        spans = [*s.earlier, (s.prefix_start, s.prefix_length)]
        prefix = [key for start, length in spans for key in range(start, start + length)]
        for i in range(s.length):
            keys = [*prefix, *range(s.start, s.start + i + 1)]
            mask[s.start + i, keys if window is None else keys[-window:]] = True
    return mask


def softmax_attention(query, key, value, mask, scaling, sinks=None):
    """Attention written out: softmax over scores, and a sink per head, whose weight is then dropped."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    return (scores.softmax(-1)[..., : key.shape[2]] @ value).transpose(1, 2)


def states(heads, num_tokens=NUM_TOKENS, dim=8):
    return torch.randn(1, heads, num_tokens, dim, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_equals_masked_attention_with_gradients(kv_heads):
    torch.manual_seed(0)
    query, key, value = states(4), states(kv_heads), states(kv_heads)
    layout = build_layout(SEGMENTS)
    ours, weights = shared_prefix_attention(
        torch.nn.Module(), query, key, value, None, scaling=0.3, shared_prefix=layout
    )
    assert weights is None
    repeats = 4 // kv_heads
    oracle = F.scaled_dot_product_attention(
        query,
        key.repeat_interleave(repeats, 1),
        value.repeat_interleave(repeats, 1),
        attn_mask=visible(SEGMENTS, NUM_TOKENS),
        scale=0.3,
    ).transpose(1, 2)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(ours)
    grads = torch.autograd.grad((ours * direction).sum(), (query, key, value))
    expected = torch.autograd.grad((oracle * direction).sum(), (query, key, value))
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("window", [None, 1, 2, 4, 8, 30, 100])
def test_windows_and_sinks_equal_a_softmax_written_out_with_gradients(window, with_sinks):
    torch.manual_seed(0)
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True) if with_sinks else None
    states_and_sinks = [states(4), states(2), states(2), *([sinks] if with_sinks else [])]
    query, key, value = states_and_sinks[:3]
    options = {"sliding_window": window, "s_aux": sinks, "shared_prefix": build_layout(SEGMENTS)}
    ours, _ = shared_prefix_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, **options)
    oracle = softmax_attention(query, key, value, visible(SEGMENTS, NUM_TOKENS, window), 0.3, sinks)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(ours)
    grads = torch.autograd.grad((ours * direction).sum(), states_and_sinks)
    expected = torch.autograd.grad((oracle * direction).sum(), states_and_sinks)
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-11)


def test_a_window_between_the_most_queries_and_the_most_keys_of_a_segment():
    """Five keys for a prompt of 5 and an answer of 3 tokens: the window cuts the answer's keys alone."""
    segments = [Segment(0, 5), Segment(5, 3, 0, 5)]
    query, key, value = states(4, 8), states(2, 8), states(2, 8)
    options = {"sliding_window": 5, "shared_prefix": build_layout(segments)}
    ours, _ = shared_prefix_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, **options)
    oracle = softmax_attention(query, key, value, visible(segments, 8, 5), 0.3)
    torch.testing.assert_close(ours, oracle, rtol=1e-10, atol=1e-12)


def test_pieces_of_a_window_by_hand():
    # a prompt's prefix 0..9, an answer 10..16; a query sees three keys
    pieces = [*Segment(0, 10).windowed(3), *Segment(10, 7, 0, 10).windowed(3)]
    prompt = [Segment(0, 3), Segment(3, 3, 1, 2), Segment(6, 3, 4, 2), Segment(9, 1, 7, 2)]
    assert pieces == [*prompt, Segment(10, 3, 8, 2), Segment(13, 3, 11, 2), Segment(16, 1, 14, 2)]
    assert [*Segment(10, 7, 0, 10).windowed(17)] == [Segment(10, 7, 0, 10)]
    # an answer 16..18 to a question 14..15 about an image 0..9: the window reaches into the image, then no more
    assert [*Segment(16, 3, 14, 2, ((0, 10),)).windowed(5)] == [Segment(16, 3, 14, 2, ((8, 2),))]
    assert [*Segment(16, 3, 14, 2, ((0, 10),)).windowed(3)] == [Segment(16, 3, 14, 2)]


def test_spans_are_cut_by_hand():
    spans = ((0, 10), (14, 2), (30, 5))
    assert cut_spans(spans, 0, 17) == spans
    assert cut_spans(spans, 0, 11) == ((0, 10), (14, 1))
    assert cut_spans(spans, 10, 17) == ((14, 2), (30, 5))
    assert cut_spans(spans, 3, 5) == ((3, 2),)
    assert cut_spans(spans, 4, 4) == ()


def test_a_window_costs_by_its_width_not_by_the_row():
    window, [prompt] = 16, build_layout([Segment(0, 4096)]).groups
    pieces, _ = build_layout([Segment(0, 4096)]).narrowed(window)
    products = sum(len(g.queries) * len(g.keys) // g.size for g in pieces)
    assert products <= 2 * window * 4096 and len(pieces) == 2
    assert build_layout([Segment(0, 4096)]).narrowed(4096)[0][0].mask is prompt.mask is None


def test_without_a_layout_it_raises_and_names_the_cure():
    query = states(2)
    with pytest.raises(ValueError, match="needs shared_prefix=; use sdpa"):
        shared_prefix_attention(torch.nn.Module(), query, query, query, None)


def test_dropout_never_goes_through_the_kernel_which_has_none(monkeypatch):
    torch.manual_seed(0)
    query, key, value = states(4), states(2), states(2)
    monkeypatch.setattr(attention, "varlen_refusal", lambda *_, **__: "")
    monkeypatch.setattr(attention, "varlen_attention", lambda query, *_: torch.zeros_like(query).transpose(0, 1))

    def attend(dropout):
        options = {"dropout": dropout, "shared_prefix": build_layout(SEGMENTS)}
        return shared_prefix_attention(torch.nn.Module(), query, key, value, None, **options)[0]

    assert not attend(0.0).any() and attend(0.5).any()


def test_groups_cover_every_segment_once_and_keep_padding_low():
    groups = group_segments(SEGMENTS)
    assert sorted((s for group in groups for s in group), key=lambda s: s.start) == SEGMENTS
    for group in groups:
        padded = len(group) * max(s.length for s in group) * max(s.num_keys for s in group)
        assert padded <= MOST_PADDING * sum(s.cost for s in group)
        assert len({s.prefix_length > 0 for s in group}) == 1


def test_equal_segments_run_in_one_call():
    segments = [Segment(10 * k, 10) for k in range(8)]
    layout = build_layout(segments)
    assert [group.size for group in layout.groups] == [8]
    assert layout.groups[0].mask is None
    assert torch.equal(layout.restore, torch.arange(80))


def test_layout_of_one_prompt_by_hand():
    # prompt prefix 0 1, chosen 2 3, rejected 4
    layout = build_layout([Segment(0, 2), Segment(2, 2, 0, 2), Segment(4, 1, 0, 2)])
    prefix, rejected, chosen = layout.groups
    assert prefix.queries.tolist() == [0, 1] and prefix.mask is None
    assert rejected.queries.tolist() == [4] and rejected.keys.tolist() == [0, 1, 4]
    assert chosen.keys.tolist() == [0, 1, 2, 3]
    assert chosen.mask[0, 0].tolist() == [[True, True, True, False], [True, True, True, True]]
    assert layout.restore.tolist() == [0, 1, 3, 4, 2]


def test_autocast_decides_the_type_of_attention():
    states = torch.zeros(1)
    assert working_dtype(states) == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert working_dtype(states) == torch.bfloat16


class RankOfTwo:
    """The sequence group as a rank sees it: half of the heads of all positions, here those of rank 1."""

    size = 2

    def to_heads(self, states):
        return states.chunk(2, dim=1)[1]

    def to_positions(self, outputs):
        return outputs


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_rank_of_a_sequence_group_has_the_keys_of_its_queries(kv_heads):
    """One key head for two ranks is not cut but held by both."""
    torch.manual_seed(0)
    given = states(4), states(kv_heads), states(kv_heads)
    settings = {"attention_mask": None, "scaling": 0.3, "shared_prefix": build_layout(SEGMENTS)}
    whole, _ = shared_prefix_attention(torch.nn.Module(), *given, **settings)
    own, _ = shared_prefix_attention(torch.nn.Module(), *given, **settings, sequence_group=RankOfTwo())
    torch.testing.assert_close(own, whole[:, :, 2:], rtol=1e-10, atol=1e-12)
