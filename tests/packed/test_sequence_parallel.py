"""Sharing of rows without ranks: sizes that do not fit are refused, and heads that do not divide are repeated."""

import pytest
import torch

from internvl_chat.packed.attention import shared_prefix_attention
from internvl_chat.packed.layout import Segment, build_layout
from internvl_chat.packed.sequence_parallel import SequenceGroup


class Whole:
    """A group whose ranks are all here: whatever is sent comes back."""

    size = 4

    def to_heads(self, states):
        assert states.shape[1] % self.size == 0
        return states

    def to_positions(self, states):
        return states


def test_keys_of_fewer_heads_than_ranks_are_repeated():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    layout = build_layout([Segment(0, 4), Segment(4, 3, 0, 4), Segment(7, 2, 0, 4)])
    states = (torch.nn.Identity(), query, key, value, None)
    expected, _ = shared_prefix_attention(*states, shared_prefix=layout)
    found, _ = shared_prefix_attention(*states, shared_prefix=layout, sequence_group=Whole())
    assert torch.equal(found, expected)


class OneOfTwo:
    """A rank's view of two: half of the heads."""

    size = 2

    def __init__(self, rank):
        self.rank = rank

    def own(self, states, dim):
        return states.chunk(2, dim)[self.rank]

    def to_heads(self, states):
        return states.chunk(2, 1)[self.rank]

    def to_positions(self, states):
        return states


def test_each_rank_takes_the_sinks_of_its_heads():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    options = {"s_aux": torch.tensor([-2.0, 0.0, 1.0, 3.0]), "sliding_window": 3}
    options["shared_prefix"] = build_layout([Segment(0, 4), Segment(4, 3, 0, 4), Segment(7, 2, 0, 4)])
    states = (torch.nn.Identity(), query, key, value, None)
    expected, _ = shared_prefix_attention(*states, **options)
    parts = [shared_prefix_attention(*states, **options, sequence_group=OneOfTwo(rank))[0] for rank in (0, 1)]
    torch.testing.assert_close(torch.cat(parts, 2), expected)


def test_the_size_divides_the_ranks():
    with pytest.raises(ValueError, match="2 does not divide the 1 ranks"):
        SequenceGroup.of_neighbours(2)
