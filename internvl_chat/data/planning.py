"""How a run will deal its pairs, decided before its first step and said in the log: groups or none, and how many rows.

The costs of all pairs are known here, so what a flag will bring is worked out and not hoped for. Groups that gain
nothing by the cost model are left alone, with the reason. `--tokens_per_device` decides how many micro-batches a rank
has in a step: the fewest that hold every step of the run. Both follow from data, flags and seed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from internvl_chat.data.costs import PairSizes, place_sizes
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.groups import GROUPS
from internvl_chat.data.step_sampler import StepSampler
from internvl_chat.data.steps import Sizes, slot_costs, slot_tokens, slots_needed, step_time
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

LEAST_GAIN = 1.02  # that groups must promise: less is within what the cost model knows
STEPS_LOOKED_AT = 64  # of the first epoch, for what the log says


class OrderFlags(Protocol):
    """The flags of a training that decide its order, under their names; and its process."""

    seed: int
    data_seed: int | None
    train_sampling_strategy: str
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    given_accumulation: int | None
    group_by: str
    balance_ranks: bool
    tokens_per_device: int
    num_train_epochs: float
    max_steps: int
    disable_tqdm: bool | None

    @property
    def process_index(self) -> int:
        """Of this process."""

    @property
    def world_size(self) -> int:
        """Number of processes."""


@dataclass(frozen=True)
class Outlook:
    """What the steps of a sampler are like, by some of its first epoch.

    Attributes:
        speed: cost of all pairs, each alone, that the ranks get done while a cost of 1 passes on the fullest one.
        empty: share of the micro-batches without a pair.
        tokens: mean of the others, packed.
        most_tokens: of the fullest.
    """

    speed: float
    empty: float
    tokens: float
    most_tokens: float


def planned_sampler(
    dataset: MixtureDataset,
    args: OrderFlags,
    *,
    pairs_per_step: int,
    rank: int,
    world_size: int,
    in_force: str | None = None,
) -> StepSampler:
    """The sampler of a run that deals by cost, with groups where they gain; arguments as of `train_sampler`."""
    sizes = place_sizes(dataset, args.process_index, args.world_size, quiet=bool(args.disable_tqdm))

    def sampler(group_by: str) -> StepSampler:
        pairs = _grouped(sizes, dataset, group_by)
        made = StepSampler(
            pairs,
            pairs_per_step=pairs_per_step,
            micro_batches=args.given_accumulation or args.gradient_accumulation_steps,
            most_tokens=args.tokens_per_device or _most_tokens(pairs, group_by, args),
            rank=rank,
            world_size=world_size,
            shuffle=args.train_sampling_strategy != "sequential",
            seed=args.seed if args.data_seed is None else args.data_seed,
            group_by=group_by,
        )
        if args.tokens_per_device:
            made.micro_batches = fewest_micro_batches(made, args)
        return made

    chosen = sampler(in_force or args.group_by)
    said = _groups_said(chosen) if chosen.group_by != "none" else []
    is_open = in_force is None and chosen.group_by != "none"
    if is_open:
        ungrouped = sampler("none")
        gain = outlook(chosen).speed / outlook(ungrouped).speed
        said.append(f"{gain:.2f} times as fast as ungrouped by the cost model")
        if gain < LEAST_GAIN:
            said[-1] += f", {_why_not(chosen)}: THIS RUN IS NOT GROUPED"
            chosen = ungrouped
    said += _steps_said(chosen)
    if args.process_index == 0:
        logger.info("how steps are dealt:%s", "".join(f"\n  {line}" for line in said))
    return chosen


def _grouped(sizes: PairSizes, dataset: MixtureDataset, group_by: str) -> Sizes:
    alone = sizes.shared_by(group_by)
    return alone if group_by == "none" else replace(alone, groups=GROUPS[group_by](dataset.mixture))


def _most_tokens(pairs: Sizes, group_by: str, args: OrderFlags) -> float:
    """Of a micro-batch where no flag says: groups take no more memory than as many of the longest pairs apart would."""
    longest = float((pairs.shared_tokens + pairs.own_tokens).max())
    return math.inf if group_by == "none" else args.per_device_train_batch_size * longest


def _groups_said(sampler: StepSampler) -> list[str]:
    counts = np.unique(sampler.sizes.groups, return_counts=True)[1]
    pairs = f"{counts.sum():,} pairs of {len(counts):,} {sampler.group_by}s"
    return [f"--group_by {sampler.group_by}: {pairs}, {counts.mean():.1f} each, most {counts.max():,}"]


def _why_not(sampler: StepSampler) -> str:
    """Why groups gain nothing."""
    if len(np.unique(sampler.sizes.groups)) == len(sampler.sizes.groups):
        return f"no two pairs share {'an image' if sampler.group_by == 'image' else 'a prompt'}"
    share = sampler.pairs_per_step / sampler.world_size
    return f"with {share:g} pairs for a rank in a step few can meet without leaving other ranks idle"


def _steps_said(sampler: StepSampler) -> list[str]:
    """What the steps will be like."""
    seen = outlook(sampler)
    batches = f"{sampler.micro_batches} micro-batches on each of {sampler.world_size} ranks"
    said = [f"a step: {sampler.pairs_per_step:,} pairs in {batches}, {seen.empty:.1%} of them empty"]
    allowed = f", {sampler.most_tokens:,.0f} are allowed" if sampler.most_tokens < math.inf else ""
    said.append(f"a micro-batch: {seen.tokens:,.0f} packed tokens, most {seen.most_tokens:,.0f}{allowed}")
    tokens = sampler.sizes.shared_tokens + sampler.sizes.own_tokens
    if heavy := int((tokens > sampler.most_tokens).sum()):
        said.append(
            f"{heavy:,} of {len(tokens):,} pairs have more than --tokens_per_device {sampler.most_tokens:,.0f} tokens, "
            f"the longest {tokens.max():,.0f}: each runs alone"
        )
    return said


def fewest_micro_batches(sampler: StepSampler, args: OrderFlags) -> int:
    """Micro-batches of a rank that hold each step of the run within its limit of tokens; ranks share the work."""
    epochs = args.max_steps / sampler.num_steps if args.max_steps > 0 else args.num_train_epochs
    most = 1
    for epoch in range(max(1, math.ceil(epochs))):
        for places in sampler.steps(epoch)[args.process_index :: args.world_size]:
            most = max(most, slots_needed(sampler.sizes.take(places), sampler.most_tokens))
    return -(-max(gather_objects(most)) // sampler.world_size)


def outlook(sampler: StepSampler) -> Outlook:
    """Look at some steps of the first epoch, evenly spread."""
    steps = sampler.steps(0)
    alone = time = 0.0
    tokens: list[float] = []
    slots = sampler.micro_batches * sampler.world_size
    for number in np.unique(np.linspace(0, len(steps) - 1, STEPS_LOOKED_AT).round().astype(int)):
        step = sampler.sizes.take(steps[number])
        slot_of_pair = slots_of(sampler.plan(steps[number]), steps[number])
        alone += float((step.shared + step.own).sum())
        time += step_time(slot_costs(step, slot_of_pair, slots), sampler.world_size)
        tokens += slot_tokens(step, slot_of_pair, slots).tolist()
    filled = [number for number in tokens if number]
    return Outlook(alone / time, 1 - len(filled) / len(tokens), float(np.mean(filled)), max(filled))


def slots_of(batches: Sequence[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Number of the micro-batch of each of `places`."""
    number = {place: slot for slot, batch in enumerate(batches) for place in batch.tolist()}
    return np.array([number[place] for place in places.tolist()])
