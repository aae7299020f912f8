"""Sequence parallelism: the ranks of a group share the pack of one batch, so that longer ones fit.

A rank has a part of the tiles in the vision tower and a part of the positions in decoder and LM head. In attention it
has all positions and a part of the heads, one all-to-all before and one behind (DeepSpeed-Ulysses, arXiv 2309.14509);
written here because the pack's own attention has to run between the two.

Hooks do it, so the model stays as it is and an engine that wraps it sees ordinary modules. All ranks of a group get the
same batch and come to the same loss. Collectives are those that autograd runs backwards, hence the mean over all ranks
that an engine takes of the gradients is the gradient of the unsplit pack.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

from internvl_chat.model import InternVLChatModel
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.model.upstream import all_to_all_single


def check_ranks(size: int, world: int) -> None:
    """Raise ValueError where `size` ranks to a group leave some of the `world` over."""
    if world % size:
        raise ValueError(f"--sequence_parallel_size {size} does not divide the {world} ranks of this run")


class SequenceGroup:
    """The ranks that share packs, and how many positions and tiles the pack in the model has."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Take a group of two ranks or more."""
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.num_positions = 0
        self.num_tiles = 0

    @classmethod
    def of_neighbours(cls, size: int) -> SequenceGroup:
        """This rank's group, of `size` ranks in a row; a collective.

        Raises:
            ValueError: the number of ranks is no multiple of `size`.
        """
        world = dist.get_world_size() if dist.is_initialized() else 1
        check_ranks(size, world)
        groups = [dist.new_group(range(start, start + size)) for start in range(0, world, size)]
        return cls(groups[dist.get_rank() // size])

    def own(self, states: Tensor, dim: int, fill: float = 0) -> Tensor:
        """This rank's part along `dim` of what all ranks have, which is filled up to a multiple of them."""
        dim %= states.dim()
        missing = -states.shape[dim] % self.size
        filled = pad(states, [0, 0] * (states.dim() - 1 - dim) + [0, missing], value=fill)
        return filled.chunk(self.size, dim)[self.rank]

    def whole(self, part: Tensor, dim: int, length: int) -> Tensor:
        """The first `length` along `dim` of all ranks' parts; gradients of a part are summed over ranks."""
        sent = part.expand(self.size, *part.shape).contiguous()
        return torch.cat(self._exchange(sent).unbind(), dim).narrow(dim, 0, length)

    def to_heads(self, states: Tensor) -> Tensor:
        """(1, H, n, D) of this rank's positions -> (1, H / size, N, D): all N positions of its heads."""
        sent = states[0].unflatten(0, (self.size, -1)).contiguous()  # (size, H / size, n, D)
        return self._exchange(sent).transpose(0, 1).flatten(1, 2)[None, :, : self.num_positions]

    def to_positions(self, states: Tensor) -> Tensor:
        """(1, N, H / size, D) of this rank's heads -> (1, n, H, D): all heads of its positions."""
        filled = pad(states[0], [0, 0, 0, 0, 0, -self.num_positions % self.size])
        sent = filled.unflatten(0, (self.size, -1)).contiguous()  # (size, n, H / size, D)
        return self._exchange(sent).transpose(0, 1).flatten(1, 2)[None]

    def _exchange(self, sent: Tensor) -> Tensor:
        """Block k of (size, ...) goes to rank k; what comes stands in the order of the ranks."""
        return all_to_all_single(torch.empty_like(sent), sent, group=self.group)


def split_rows(model: InternVLChatModel, group: SequenceGroup) -> None:
    """Let the model work on this rank's part of each pack; its log-probs are those of the whole pack.

    Do it once, behind `use_shared_prefix` and before any engine wraps the model.

    Raises:
        ValueError: the heads of the language model cannot be shared out.
    """
    heads = model.config.llm_config.num_attention_heads
    if heads % group.size:
        raise ValueError(f"--sequence_parallel_size {group.size} does not divide the model's {heads} attention heads")

    def split_tiles(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        (tiles,) = args
        group.num_tiles = len(tiles)
        return (group.own(tiles, 0),)

    def join_tiles(_: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor:
        return group.whole(features, 0, group.num_tiles)

    def split_positions(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        embeds, positions = kwargs["inputs_embeds"], kwargs["position_ids"]
        group.num_positions = embeds.shape[1]
        parts = {"inputs_embeds": group.own(embeds, 1), "position_ids": group.own(positions, 1)}
        return args, {**kwargs, **parts, "sequence_group": group}

    def split_labels(_: nn.Module, args: tuple[Any, ...], __: dict[str, Any]) -> tuple[Any, Any]:
        hidden, labels = args
        return (hidden, group.own(labels, 1, IGNORE_INDEX)), {}  # positions of labels are those of all ranks

    def join_logps(_: nn.Module, args: tuple[Any, ...], logps: Tensor) -> Tensor:
        return group.whole(logps, 1, group.num_positions)

    model.vision_model.register_forward_pre_hook(split_tiles)
    model.mlp1.register_forward_hook(join_tiles)
    model.language_model.model.register_forward_pre_hook(split_positions, with_kwargs=True)
    head = model.language_model.get_output_embeddings()
    head.register_forward_pre_hook(split_labels, with_kwargs=True)
    head.register_forward_hook(join_logps)
