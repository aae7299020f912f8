"""Matrix-product FLOPs of one optimization step, counted by hand for each form of it.

Only matrix products count, 2 FLOPs per multiply-add, and attention only where a query sees a key: a causal row of S
tokens has S (S + 1) / 2 such pairs. With every layer checkpointed the policy runs a layer 4 times (forward, the
forward again, 2 in the backward pass; the last product of a decoder layer only 3 times, since nothing needs its output
again), the projector and a full LM head 3 times, a chunked LM head 4 times. The reference runs everything once.
`tests/test_benchmarks.py` holds this against torch's own counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training_model import Shape, Size

CHECKPOINTED, KEPT, FROZEN = 4, 3, 1  # runs of a product in forward and backward together


@dataclass(frozen=True)
class Work:
    """What one model is asked to compute.

    Attributes:
        tiles: through the vision tower.
        tokens: through the language model, padding included.
        seen: query-key pairs of its attention.
        scored: positions through the LM head.
        head_runs: times that the LM head runs per position in a policy step.
    """

    tiles: int
    tokens: int
    seen: int
    scored: int
    head_runs: int

    def step(self, size: Size, *, with_reference: bool) -> int:
        """FLOPs of forward and backward of a checkpointed policy, and of a reference that does the same."""
        layers = self.tiles * vision_layers(size) + language_layers(size, self.tokens, self.seen)
        projector, head = self.tiles * size.projector_flops, self.scored * size.head_flops
        # The patch embedding has no gradient for its input: two runs.
        policy = CHECKPOINTED * layers + KEPT * projector + self.head_runs * head + 2 * self.tiles * size.patch_flops
        policy -= 2 * self.tokens * size.width * size.mlp * size.layers
        reference = FROZEN * (layers + projector + head + self.tiles * size.patch_flops)
        return policy + with_reference * reference

    def useful(self, size: Size, *, with_reference: bool) -> int:
        """The same without what is computed again: what MFU counts."""
        layers = self.tiles * vision_layers(size) + language_layers(size, self.tokens, self.seen)
        rest = self.tiles * (size.projector_flops + size.patch_flops) + self.scored * size.head_flops
        return (KEPT + with_reference * FROZEN) * (layers + rest)


def vision_layers(size: Size) -> int:
    """Forward FLOPs of the vision layers on one tile."""
    tokens = size.patches + 1
    weights = 4 * size.vision_width**2 + 2 * size.vision_width * size.vision_mlp
    return size.vision_layers * (2 * tokens * weights + 4 * tokens**2 * size.vision_width)


def language_layers(size: Size, tokens: int, seen: int) -> int:
    """Forward FLOPs of the decoder layers on `tokens`, of which queries see `seen` keys in all."""
    key_values = size.width * size.kv_heads // size.heads
    weights = 2 * size.width**2 + 2 * size.width * key_values + 3 * size.width * size.mlp
    return size.layers * (2 * tokens * weights + 4 * seen * size.width)


def causal(length: int) -> int:
    """Query-key pairs of a causal row."""
    return length * (length + 1) // 2


def padded_work(shape: Shape) -> Work:
    """The original's form: chosen and rejected as rows padded to the longest, full logits."""
    longest, rows = shape.prompt_length + max(shape.chosen, shape.rejected), 2 * shape.pairs
    tokens = rows * longest
    return Work(rows * shape.tiles, tokens, rows * causal(longest), scored=tokens, head_runs=KEPT)


def fused_head_work(shape: Shape) -> Work:
    """TRL's form: the same rows, an LM head in tiles at positions with a label.

    Its code for the CPU scores every position; what it needs not do is not counted in its favour.
    """
    return replace(padded_work(shape), scored=shape.answer_tokens, head_runs=CHECKPOINTED)


def packed_work(shape: Shape, *, prompts: int) -> Work:
    """Ours: each prompt once, all but its last token as prefix, then a branch per answer; an image once for all."""
    prefix = shape.prompt_length - 1
    answers: Sequence[int] = [shape.chosen, shape.rejected] * shape.pairs
    again = prompts - 1 if shape.same_image else 0  # prompts whose image is there already
    return Work(
        tiles=(prompts - again) * shape.tiles,
        tokens=prompts * prefix - again * shape.image_end + sum(answers),
        seen=prompts * causal(prefix)
        - again * causal(shape.image_end)
        + sum(length * prefix + causal(length) for length in answers),
        scored=sum(answers),
        head_runs=CHECKPOINTED,
    )
