"""How much of 8 to 512 ranks works at a time under ZeRO-3: one padded pair per micro-batch beside dealt packed ones.

    python benchmarks/simulate_ranks.py [--steps 50]

Assumptions. (1) ZeRO-3 gathers every layer on all ranks, so a micro-batch takes as long as on its slowest rank.
(2) Communication is free; it falls on all forms. (3) Compute takes as long as its FLOPs by `training_flops` in the
shapes of InternVL2.5-2B, checkpointed, vision tower trained. (4) A step has 256 pairs, as the published launchers have,
or 1024; never less than one per rank. (5) A tenth of the rows has no image, that is a blank tile; the others have 1 to
13 tiles with the weights of TILES, pictures of all sizes as in MMPR. (6) 70 % of the pairs are chains of thought, both
answers log-normal with median 220 tokens and sigma 0.6; 30 % are short, median 15 and sigma 0.8; at most 2048 tokens.
Prompts have 64 tokens of text.

`original`: random order, one pair per micro-batch and rank, two rows padded to the longer, a model for the reference.
`packed`: dealt the same way, our layout, cached reference. `balanced`: the pairs of a step dealt as by the trainer's
sampler with `data.order.assign`, by tokens of prompt and answers, into micro-batches of 4 pairs on average
(fewer where a rank has fewer in a step). `balanced_by_text`: the same, tiles not known, by tokens of text alone.
Efficiency is the mean work of a rank over the time of the step; speedup the time of `original` for the same pairs over
that of the form. Writes benchmarks/results/simulate_ranks.json.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from machine import write_results
from training_flops import packed_work, padded_work
from training_model import SIZES, TEXT_TOKENS, Shape

from internvl_chat.data.order import assign

SIZE = SIZES["2B"]
RANKS = (8, 16, 32, 64, 128, 256, 512)
PAIRS_PER_STEP = (256, 1024)
PAIRS_PER_MICRO_BATCH = 4  # about 8,000 packed tokens
TILES = {1: 24, 2: 4, 3: 12, 5: 16, 7: 22, 9: 7, 10: 4, 11: 2, 13: 9}  # tiles with thumbnail -> weight
SEED = 0


def draw_shapes(count: int, rng: np.random.Generator) -> list[Shape]:
    """Pairs of the mixture that the module describes."""
    tiles = rng.choice(list(TILES), count, p=np.array(list(TILES.values())) / sum(TILES.values()))
    tiles = np.where(rng.random(count) < 0.1, 1, tiles)
    is_thought = rng.random(count) < 0.7
    medians, sigmas = np.where(is_thought, 220, 15), np.where(is_thought, 0.6, 0.8)
    answers = (medians * np.exp(sigmas * rng.standard_normal((2, count)))).clip(2, 2048).astype(int)
    return [Shape(*row) for row in zip(tiles.tolist(), *answers.tolist(), strict=True)]


def original_flops(shapes: Sequence[Shape]) -> np.ndarray:
    """FLOPs of each pair in the original's form, (pairs,)."""
    return np.array([padded_work(shape).step(SIZE, with_reference=True) for shape in shapes], float)


def packed_flops(shapes: Sequence[Shape]) -> np.ndarray:
    """FLOPs of each pair in ours with a cached reference, (pairs,)."""
    return np.array([packed_work(shape, prompts=1).step(SIZE, with_reference=False) for shape in shapes], float)


def tokens_of_text(shape: Shape) -> float:
    """What a sampler knows of a pair that has looked at its row, not at its picture."""
    return TEXT_TOKENS + shape.answer_tokens


def cost_of_pair(shape: Shape) -> float:
    """What it knows with the size of the picture: image tokens count twice, for the vision tower costs as much."""
    return shape.prompt_length + shape.answer_tokens + shape.tiles * shape.tile_tokens


def step_time(flops: np.ndarray, slots: Sequence[Sequence[int]], ranks: int) -> float:
    """FLOPs that a step waits for: slots run in turns of one per rank, each turn as long as its fullest slot."""
    loads = np.array([flops[list(slot)].sum() for slot in slots])
    return float(loads.reshape(-1, ranks).max(axis=1).sum())


def one_step(shapes: Sequence[Shape], ranks: int) -> dict[str, tuple[float, float]]:
    """FLOPs per rank and FLOPs waited for, by form."""
    original, ours = original_flops(shapes), packed_flops(shapes)
    alone = [[place] for place in range(len(shapes))]
    num_slots = len(shapes) // min(PAIRS_PER_MICRO_BATCH, len(shapes) // ranks)

    def dealt(length: Any) -> list[list[int]]:
        return assign([(length(shape), [place]) for place, shape in enumerate(shapes)], num_slots)

    plans = {
        "original": (original, alone),
        "packed": (ours, alone),
        "balanced_by_text": (ours, dealt(tokens_of_text)),
        "balanced": (ours, dealt(cost_of_pair)),
    }
    return {name: (flops.sum() / ranks, step_time(flops, slots, ranks)) for name, (flops, slots) in plans.items()}


def simulate(ranks: int, pairs: int, steps: int) -> dict[str, Any]:
    """Efficiency and speedup of each form over that many steps."""
    rng = np.random.default_rng(SEED)
    done, waited = Counter[str](), Counter[str]()
    for _ in range(steps):
        for name, (work, time) in one_step(draw_shapes(pairs, rng), ranks).items():
            done[name] += work
            waited[name] += time
    forms = {
        name: {
            "efficiency": round(done[name] / waited[name], 3),
            "speedup": round(waited["original"] / waited[name], 2),
        }
        for name in done
    }
    return {"ranks": ranks, "pairs_per_step": pairs, "forms": forms}


def describe_mixture(count: int = 20_000) -> dict[str, float]:
    """Means and spread of the pairs that are drawn."""
    shapes = draw_shapes(count, np.random.default_rng(SEED))
    flops = packed_flops(shapes)
    return {
        "mean_tiles": round(float(np.mean([shape.tiles for shape in shapes])), 2),
        "mean_answer_tokens": round(float(np.mean([shape.answer_tokens / 2 for shape in shapes])), 1),
        "mean_prompt_tokens": round(float(np.mean([shape.prompt_length for shape in shapes])), 1),
        "deviation_of_flops_over_mean": round(float(flops.std() / flops.mean()), 3),
        "mean_flops_original_over_packed": round(float(original_flops(shapes).mean() / flops.mean()), 3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate all numbers of ranks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args(argv)
    rows = [simulate(ranks, pairs, args.steps) for pairs in PAIRS_PER_STEP for ranks in RANKS if ranks <= pairs]
    write_results("simulate_ranks", {"steps": args.steps, "mixture": describe_mixture(), "rows": rows})


if __name__ == "__main__":
    main()
