"""How much of 8 to 512 ranks works at a time under ZeRO-3, and which flags make a run on MMPR short: a simulation.

    python benchmarks/simulate_ranks.py [--steps 20]

Assumptions. (1) ZeRO-3 gathers every layer on all ranks, so a micro-batch takes as long as on its slowest rank.
(2) Communication is free; it falls on all forms. (3) Compute takes as long as its FLOPs by `training_flops` in the
shapes of InternVL2.5-2B, checkpointed, vision tower trained. (4) A step has 256 pairs, as the published launchers have,
or 1024; never less than one per rank. (5) A tenth of the rows has no image, that is a blank tile; the others have 1 to
13 tiles with the weights of TILES, pictures of all sizes as in MMPR; ours, not published.

`rows`: what balance brings, to pairs that share nothing. 70 % of them are chains of thought, both answers log-normal
with median 220 tokens and sigma 0.6; 30 % are short, median 15 and sigma 0.8; at most 2048 tokens; prompts have 64
tokens of text. `original`: random order, one pair per micro-batch and rank, two rows padded to the longer, a model for
the reference. `packed`: dealt the same way, our layout, cached reference. `balanced`: the pairs of a step dealt by the
trainer's own code, by tokens of prompt and answers, into micro-batches of 4 pairs on average (fewer where a rank has
fewer in a step). `balanced_by_text`: the same, tiles not known. Efficiency is the mean work of a rank over the time of
the step; speedup the time of `original` for the same pairs over that of the form.

`groups`: what groups and a budget of tokens bring, dealt by the trainer's own code; costs as it knows them, times by
FLOPs. Mixtures: every prompt with 1, 4 or 15 pairs; and `MMPR`, of which is published (arXiv 2411.10442, section 3.2):
750,000 pairs without ground truth, questions of 25 tokens, answers of 211.4 and 171.2 on the average, and 2,500,000
with it, 79.5, 300.0 and 350.5; of the latter at most 15 pairs a question (--num-pairs of InternVL's pipeline). Version
1.2 has 266,908 images (its zips) and "about 3 million samples" (its card). Ours: answers are log-normal with sigma 0.6,
at most 4,097 tokens (the longest published); a question with ground truth has 1 to 15 pairs, all as often, one without
has one; so that 3.25 million pairs have 1.06 million questions, 3.1 pairs each, and an image 4.0 questions, geometric.
`MMPR 400k`: every pair of it with probability 0.13, as `repeat_time` draws 400,000 of 3 million. A run is the fill of
the cache (a forward pass of each prompt with all its answers, no waiting) and its epochs, against `original` without.

Writes benchmarks/results/simulate_ranks.json.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from machine import write_results
from training_flops import CHECKPOINTED, Work, causal, packed_work, padded_work
from training_model import SIZES, TEXT_TOKENS, Shape

from internvl_chat.data.planning import LEAST_GAIN, STEPS_LOOKED_AT, outlook, slots_of
from internvl_chat.data.step_sampler import StepSampler
from internvl_chat.data.steps import Sizes, deal, slot_costs, slots_needed
from internvl_chat.data.steps import step_time as time_of_slots

SIZE = SIZES["2B"]
RANKS = (8, 16, 32, 64, 128, 256, 512)
PAIRS_PER_STEP = (256, 1024)
PAIRS_PER_MICRO_BATCH = 4  # about 8,000 packed tokens
TILES = {1: 24, 2: 4, 3: 12, 5: 16, 7: 22, 9: 7, 10: 4, 11: 2, 13: 9}  # tiles with thumbnail -> weight
SEED = 0
TILE_TOKENS, BUDGET = 256, 16_384
# Kind -> share of the pairs that an epoch draws, pairs of a prompt (0: as in MMPR).
MIXTURES = {"1 pair": (1.0, 1), "4 pairs": (1.0, 4), "15 pairs": (1.0, 15), "MMPR": (1.0, 0), "MMPR 400k": (0.13, 0)}
PROMPTS_WITH_TRUTH = (2.5 / 8) / (2.5 / 8 + 0.75)  # 8 pairs each, the others have one
QUESTIONS_OF_AN_IMAGE = (2.5 / 8 + 0.75) * 1e6 / 266_908
LENGTHS = {"without": (25.0, 211.4, 171.2), "with": (79.5, 300.0, 350.5)}  # question, chosen, rejected
SIGMA = 0.6


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
        slot = deal(np.array([length(shape) for shape in shapes]), num_slots)
        return [np.flatnonzero(slot == number).tolist() for number in range(num_slots)]

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
        for name, (work, lasted) in one_step(draw_shapes(pairs, rng), ranks).items():
            done[name] += work
            waited[name] += lasted
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


@dataclass(frozen=True)
class Pairs:
    """Pairs of a mixture, (P,) each: numbers of image and prompt, tiles, and tokens of question and both answers."""

    image: np.ndarray
    prompt: np.ndarray
    tiles: np.ndarray
    question: np.ndarray
    answers: np.ndarray

    def sizes(self, group_by: str) -> Sizes:
        """Costs and tokens as the trainer's sampler knows them."""
        image, text = self.tiles * TILE_TOKENS, TEXT_TOKENS + self.question
        groups = {"prompt": self.prompt, "image": self.image, "none": np.arange(len(self.image))}[group_by]
        common = np.zeros(len(text)) if group_by == "image" else text
        own = text - common + self.answers.sum(0)
        return Sizes(2 * image + common, own, groups, image + common, own)

    def flops(self, group_by: str, *, forward_only: bool = False) -> Sizes:
        """FLOPs of what a group shares and of what a pair adds, in place of costs."""
        sizes = self.sizes(group_by)
        rest = self.question if group_by == "image" else np.zeros(len(self.question), int)
        columns = (self.tiles, TEXT_TOKENS + self.question - rest, rest, *self.answers)
        pairs = [flops_of_pair(*map(int, row), forward_only) for row in zip(*columns, strict=True)]
        shared, own = np.array(pairs, float).T
        return replace(sizes, shared=shared, own=own)


@cache
def flops_of_pair(
    tiles: int, text: int, rest: int, chosen: int, rejected: int, forward_only: bool
) -> tuple[float, float]:
    """Of the shared prefix (image and `text`), and of both branches (`rest` of the question and an answer each)."""
    prefix = tiles * TILE_TOKENS + text
    branches = [rest + chosen, rest + rejected]
    seen = sum(length * prefix + causal(length) for length in branches)
    shared = Work(tiles, prefix, causal(prefix), 0, CHECKPOINTED)
    own = Work(0, sum(branches), seen, chosen + rejected, CHECKPOINTED)
    steps = [work.step(SIZE, with_reference=False) for work in (shared, own)]
    if forward_only:
        steps = [work.step(SIZE, with_reference=True) - step for work, step in zip((shared, own), steps, strict=True)]
    return steps[0], steps[1]


def draw_pairs(kind: str, count: int, rng: np.random.Generator) -> Pairs:
    """At most `count` pairs of a mixture of MIXTURES, all but a few."""
    share, per_prompt = MIXTURES[kind]
    wanted = int(count / share)
    has_truth = rng.random(wanted) < PROMPTS_WITH_TRUTH  # of as many prompts, more than enough
    pairs = np.full(wanted, per_prompt) if per_prompt else np.where(has_truth, rng.integers(1, 16, wanted), 1)
    pairs = pairs[: int(np.searchsorted(np.cumsum(pairs), wanted)) + 1]
    questions = rng.geometric(1 / QUESTIONS_OF_AN_IMAGE, len(pairs))
    image = np.repeat(np.arange(len(pairs)), questions)[: len(pairs)]
    tiles = rng.choice(list(TILES), len(pairs), p=np.array(list(TILES.values())) / sum(TILES.values()))[image]
    prompt = np.repeat(np.arange(len(pairs)), pairs)
    kept = prompt[rng.random(len(prompt)) < share][:count]
    truth = has_truth[kept].astype(int)
    means = np.array([LENGTHS["without"], LENGTHS["with"]])[truth].T
    noise = np.exp(SIGMA * rng.standard_normal((2, len(kept))) - SIGMA**2 / 2)
    answers = (means[1:] * noise).clip(17, 4097).astype(int)
    return Pairs(image[kept], kept, tiles[image[kept]], means[0].astype(int), answers)


def sampler_of(pairs: Pairs, group_by: str, ranks: int, budget: int) -> StepSampler:
    """The trainer's sampler for these pairs; without a budget 4 pairs or fewer a micro-batch."""
    sizes, of_rank = pairs.sizes(group_by), PAIRS_PER_STEP[0] // ranks
    longest = float((sizes.shared_tokens + sizes.own_tokens).max())
    size = min(PAIRS_PER_MICRO_BATCH, of_rank)
    allowed = np.inf if group_by == "none" else size * longest
    made = StepSampler(
        sizes,
        pairs_per_step=PAIRS_PER_STEP[0],
        micro_batches=of_rank // size,
        most_tokens=budget or allowed,
        world_size=ranks,
        group_by=group_by,
    )
    if budget:
        made.micro_batches = -(-max(slots_needed(sizes.take(step), budget) for step in made.steps(0)) // ranks)
    return made


def waited(sampler: StepSampler, flops: Sizes) -> float:
    """FLOPs that an epoch waits for."""
    slots, lasted = sampler.micro_batches * sampler.world_size, 0.0
    for places in sampler.steps(0):
        dealt = slots_of(sampler.plan(places), places)
        lasted += time_of_slots(slot_costs(flops.take(places), dealt, slots), sampler.world_size)
    return lasted


def original_time(pairs: Pairs, ranks: int, rng: np.random.Generator) -> float:
    """FLOPs that an epoch of the original's form waits for: random order, a padded pair on each rank at a time."""
    shapes = zip(pairs.tiles.tolist(), *pairs.answers.tolist(), strict=True)
    flops = original_flops([Shape(*shape) for shape in shapes])[rng.permutation(len(pairs.tiles))]
    whole = flops[: len(flops) // ranks * ranks].reshape(-1, ranks)
    return float(whole.max(axis=1).sum() * len(flops) / whole.size)


def simulate_groups(kind: str, ranks: int, budget: int, steps: int) -> dict[str, Any]:
    """A mixture on so many ranks: what groups bring over none, and runs of one and three epochs over the original's."""
    rng = np.random.default_rng(SEED)
    pairs = draw_pairs(kind, PAIRS_PER_STEP[0] * steps, rng)
    samplers = {name: sampler_of(pairs, name, ranks, budget) for name in ("none", "prompt", "image")}
    flops = {name: pairs.flops(name) for name in samplers}
    times = {name: waited(sampler, flops[name]) for name, sampler in samplers.items()}
    seen = {name: outlook(sampler) for name, sampler in samplers.items()}
    original = original_time(pairs, ranks, rng)
    forward = pairs.flops("prompt", forward_only=True)
    met = np.unique(pairs.prompt, return_index=True)[1]
    fill = float(forward.own.sum() + forward.shared[met].sum()) / ranks
    forms = {}
    for name, sampler in samplers.items():
        promised = seen[name].speed / seen["none"].speed
        forms[name] = {
            "micro_batches": sampler.micro_batches,
            "empty": round(seen[name].empty, 3),
            "tokens": round(seen[name].tokens),
            "most_tokens": round(seen[name].most_tokens),
            "promised": round(promised, 3),
            "gain": round(times["none"] / times[name], 3),
            "is_kept": name == "none" or promised >= LEAST_GAIN,
            "runs": {str(epochs): round(epochs * original / (fill + epochs * times[name]), 2) for epochs in (1, 3)},
            "without_fill": round(original / times[name], 2),
            "tflop_waited_for_a_pair": round(times[name] / len(pairs.image) / 1e12, 3),
        }
    return {"mixture": kind, "ranks": ranks, "budget": budget, "forms": forms}


def planning_seconds(places: int = 3_000_000, ranks: int = 64) -> dict[str, Any]:
    """CPU seconds of planning an epoch of so many pairs, 4 of a prompt: what a start takes, and each step later on."""
    rng = np.random.default_rng(SEED)
    groups = rng.permutation(places) // 4
    image, text = rng.choice(list(TILES), places)[groups] * 256.0, rng.integers(100, 2000, places).astype(float)
    sampler = StepSampler(
        Sizes(2 * image, text, groups, image, text), pairs_per_step=256, micro_batches=4, world_size=ranks
    )
    sampler.most_tokens = BUDGET
    begin = time.process_time()
    steps = sampler.steps(0)
    ordered = time.process_time()
    most = max(slots_needed(sampler.sizes.take(step), BUDGET) for step in steps[::10])
    searched = time.process_time()
    outlook(sampler)
    return {
        "places": places,
        "order": round(ordered - begin, 2),
        "search of the fullest step, shared by the ranks": round(10 * (searched - ordered), 1),
        "what the log says": round(time.process_time() - searched, 2),
        "milliseconds of a step": round((time.process_time() - searched) / STEPS_LOOKED_AT * 1e3, 1),
        "micro_batches": -(-most // ranks),
    }


def describe_pairs(kind: str) -> dict[str, float]:
    """Pairs of a prompt and of an image, tiles, and tokens of an answer, on the average."""
    pairs = draw_pairs(kind, 20_000, np.random.default_rng(SEED))
    return {
        "pairs_per_prompt": round(len(pairs.prompt) / len(np.unique(pairs.prompt)), 2),
        "pairs_per_image": round(len(pairs.image) / len(np.unique(pairs.image)), 2),
        "tiles": round(float(pairs.tiles.mean()), 2),
        "answer_tokens": round(float(pairs.answers.mean()), 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate all numbers of ranks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(argv)
    rows = [simulate(ranks, pairs, args.steps) for pairs in PAIRS_PER_STEP for ranks in RANKS if ranks <= pairs]
    groups = [
        simulate_groups(kind, ranks, budget, args.steps)
        for kind in MIXTURES
        for ranks in RANKS
        if ranks <= PAIRS_PER_STEP[0]
        for budget in (0, BUDGET)
    ]
    mixtures = {kind: describe_pairs(kind) for kind in MIXTURES}
    figures = {"steps": args.steps, "mixture": describe_mixture(), "rows": rows, "mixtures": mixtures, "groups": groups}
    write_results("simulate_ranks", {**figures, "planning_cpu_seconds": planning_seconds()})


if __name__ == "__main__":
    main()
