"""The pairs of one step dealt to micro-batches: groups that share a prompt or a picture are kept whole where that pays.

Micro-batches run in turns of one per rank, and a turn lasts as long as its fullest one: where each pair has a rank to
itself, bringing pairs together leaves ranks idle. So a step is planned in several ways, from whole groups through parts
of them down to single pairs, each dealt out by cost, and the plan of the shortest step counts. Single pairs are always
among them: by the cost model no step is slower than without groups.

A limit of packed tokens holds for every micro-batch; a single pair above it sits alone.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

MEASURES = ("shared", "own", "shared_tokens", "own_tokens")
NARROWER = 1.1


@dataclass(frozen=True)
class Sizes:
    """What pairs take, (P,) each: those of an epoch by place, or those of a step.

    Attributes:
        shared: cost of what a group has in common, done once in a micro-batch; any unit, >= 0.
        own: cost of what a pair adds, >= 0.
        groups: equal where pairs have something in common, which then are neighbours in a step.
        shared_tokens: packed tokens of what a group has in common.
        own_tokens: packed tokens that a pair adds.
    """

    shared: np.ndarray
    own: np.ndarray
    groups: np.ndarray
    shared_tokens: np.ndarray
    own_tokens: np.ndarray

    def __post_init__(self) -> None:
        for name in (*MEASURES, "groups"):
            if len(getattr(self, name)) != len(self.own):
                raise ValueError(f"{len(getattr(self, name))} {name} for {len(self.own)} costs: all are per pair")

    def take(self, places: np.ndarray) -> Sizes:
        """Those of the pairs at some places, in float64: sums of quarters of tokens are exact, alike on all ranks."""
        taken = {name: getattr(self, name)[places].astype(np.float64) for name in MEASURES}
        return Sizes(groups=self.groups[places], **taken)

    def apart(self) -> Sizes:
        """The same pairs, none with anything in common."""
        return replace(self, groups=np.arange(len(self.own)))

    @cached_property
    def first(self) -> np.ndarray:
        """(groups,) the first pair of each group of a step."""
        return np.flatnonzero(np.diff(self.groups, prepend=self.groups[:1] - 1)) if len(self.groups) else self.groups

    @cached_property
    def counts(self) -> np.ndarray:
        """(groups,) pairs of each group of a step."""
        return np.diff(self.first, append=len(self.groups))


@dataclass(frozen=True)
class Parts:
    """The groups of a step cut into parts, or not: `number` (P,) of each pair, `cost` and `tokens` of each part."""

    number: np.ndarray
    cost: np.ndarray
    tokens: np.ndarray

    @classmethod
    def cut(cls, step: Sizes, pieces: np.ndarray) -> Parts:
        """Each group in so many pieces, (groups,), of as many pairs as can be; a part has the shared once."""
        within = np.arange(len(step.own)) - np.repeat(step.first, step.counts)
        piece = within * np.repeat(pieces, step.counts) // np.repeat(step.counts, step.counts)
        number = np.repeat(np.cumsum(pieces) - pieces, step.counts) + piece
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        cost = step.shared[starts] + np.add.reduceat(step.own, starts)
        tokens = step.shared_tokens[starts] + np.add.reduceat(step.own_tokens, starts)
        return cls(number, cost, tokens)


def plan_step(step: Sizes, slots: int, ranks: int, most_tokens: float = np.inf) -> list[np.ndarray]:
    """Deal the pairs of a step to micro-batches such that the step is short.

    Args:
        step: its pairs, those of a group side by side.
        slots: micro-batches of the step, over all ranks; some may stay empty.
        ranks: that take them in turn: the first `ranks` of the result at once, then the next.
        most_tokens: of a micro-batch. It holds where `slots` is at least `slots_needed`.

    Returns:
        The pairs of each micro-batch as indices 0..P-1; costlier ones in earlier turns.
    """
    best, shortest = None, np.inf
    for parts in _cuts(step, ranks, most_tokens):
        slot_of_part = deal(parts.cost, slots, parts.tokens, most_tokens)
        if slot_of_part is None:
            continue
        dealt = slot_of_part[parts.number]
        time = step_time(slot_costs(step, dealt, slots), ranks)
        if time < shortest * (1 - 1e-9):  # at equal times the first counts, which has the fewest parts
            best, shortest = dealt, time
    if best is None:
        parts = fitting_parts(step, most_tokens)
        best = np.minimum(fit(parts.tokens, most_tokens), slots - 1)[parts.number]
    return _in_turns(best, slot_costs(step, best, slots), ranks)


def _cuts(step: Sizes, ranks: int, most_tokens: float) -> Iterator[Parts]:
    """Ways to cut the groups of a step, from the fewest parts that the tokens allow to single pairs."""
    whole = fitting_parts(step, most_tokens)
    yield whole
    if len(whole.cost) == len(step.own):
        return
    seen = {len(whole.cost)}
    for pieces in _numbers_of_pieces(step, ranks, float(whole.cost.max())):
        parts = fitting_parts(step, most_tokens, pieces.clip(1, step.counts))
        if len(parts.cost) not in seen:
            seen.add(len(parts.cost))
            yield parts


def _numbers_of_pieces(step: Sizes, ranks: int, costliest: float) -> Iterator[np.ndarray]:
    """Pieces (groups,) of each group, as limits of their cost ask, from `costliest` down; all its pairs in the end."""
    own, shared = np.add.reduceat(step.own, step.first), step.shared[step.first]
    if left := len(shared) % ranks:  # whole groups in all turns but one, in which the cheapest are for all ranks
        yield np.where(np.argsort(np.argsort(own + shared, kind="stable")) < left, -(-ranks // left), 1)
    limit, smallest = costliest / NARROWER, float((step.shared + step.own).max())
    while limit > smallest:
        yield np.ceil(own / np.maximum(limit - shared, 1e-9)).clip(1, step.counts).astype(int)
        limit /= NARROWER
    yield step.counts


def fitting_parts(step: Sizes, most_tokens: float, pieces: np.ndarray | None = None) -> Parts:
    """Groups in so many pieces, in one without, or in as many more as it takes to keep each within `most_tokens`."""
    pieces = np.ones(len(step.first), int) if pieces is None else pieces
    while True:
        parts = Parts.cut(step, pieces)
        heavy = parts.tokens > most_tokens
        group_of_part = np.repeat(np.arange(len(pieces)), pieces)
        more = np.bincount(group_of_part[heavy], minlength=len(pieces)).astype(bool) & (pieces < step.counts)
        if not more.any():
            return parts
        pieces = pieces + more


def deal(
    costs: np.ndarray, slots: int, tokens: np.ndarray | None = None, most_tokens: float = np.inf
) -> np.ndarray | None:
    """Slot of each unit: the costliest first, each to the slot with the least so far that has room for its tokens.

    Longest-processing-time scheduling: without a limit the fullest has at most 4/3 of the best possible (Graham 1969).

    Args:
        costs: of the units, >= 0.
        slots: how many there are.
        tokens: of the units.
        most_tokens: of a slot; a unit with more takes an empty one.

    Returns:
        (units,) int, or None where some unit found no room.
    """
    result = np.empty(len(costs), int)
    order = np.argsort(-costs, kind="stable")
    if len(costs) <= slots:
        result[order] = np.arange(len(costs))
        return result
    weights = np.zeros(len(costs)) if tokens is None else tokens
    loads, room = [(0.0, slot) for slot in range(slots)], [float(most_tokens)] * slots
    for unit, cost, weight in zip(order.tolist(), costs[order].tolist(), weights[order].tolist(), strict=True):
        full = []
        while loads and weight > room[loads[0][1]] != most_tokens:
            full.append(heapq.heappop(loads))
        if not loads:
            return None
        load, slot = heapq.heappop(loads)
        result[unit] = slot
        room[slot] -= weight
        for entry in (*full, (load + cost, slot)):
            heapq.heappush(loads, entry)
    return result


def fit(tokens: np.ndarray, most_tokens: float) -> np.ndarray:
    """Slot (units,) of each unit such that they take few slots, whatever their costs.

    Best-fit decreasing: at most 11/9 of the fewest possible and one more (Johnson 1974).
    """
    result = np.empty(len(tokens), int)
    rooms: list[tuple[float, int]] = []  # of the slots in use, the tightest first
    for unit in np.argsort(-tokens, kind="stable").tolist():
        weight = float(tokens[unit])
        at = bisect_left(rooms, (weight, -1))
        room, slot = rooms.pop(at) if at < len(rooms) else (float(most_tokens), len(rooms))
        result[unit] = slot
        insort(rooms, (room - weight, slot))
    return result


def slots_needed(step: Sizes, most_tokens: float) -> int:
    """Micro-batches that surely hold a step: as `fit` fills them, each group in as few parts as the tokens allow."""
    return int(fit(fitting_parts(step, most_tokens).tokens, most_tokens).max(initial=-1)) + 1


def slot_costs(step: Sizes, slot_of_pair: np.ndarray, slots: int) -> np.ndarray:
    """Cost (slots,) of each micro-batch: of each group in it what is shared once, and what each pair adds."""
    return _sums(step, step.shared, step.own, slot_of_pair, slots)


def slot_tokens(step: Sizes, slot_of_pair: np.ndarray, slots: int) -> np.ndarray:
    """Packed tokens (slots,) of each micro-batch, counted likewise."""
    return _sums(step, step.shared_tokens, step.own_tokens, slot_of_pair, slots)


def _sums(step: Sizes, shared: np.ndarray, own: np.ndarray, slot_of_pair: np.ndarray, slots: int) -> np.ndarray:
    group = np.repeat(np.arange(len(step.first)), step.counts)
    _, met = np.unique(slot_of_pair * max(1, len(step.first)) + group, return_index=True)
    once = np.bincount(slot_of_pair[met], shared[met], slots)
    return once + np.bincount(slot_of_pair, own, slots)


def step_time(costs: np.ndarray, ranks: int) -> float:
    """How long a step of such micro-batches lasts, in their unit: turns of one per rank, the costliest ones first."""
    return float(np.sort(costs)[::-1][::ranks].sum())


def _in_turns(slot_of_pair: np.ndarray, costs: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Pairs of each micro-batch, like ones in a turn; every second turn goes backwards, so that ranks sum up alike."""
    order = np.argsort(-costs, kind="stable")
    turns = [order[start : start + ranks] for start in range(0, len(order), ranks)]
    back_and_forth = [slot for number, turn in enumerate(turns) for slot in turn[:: -1 if number % 2 else 1]]
    return [np.flatnonzero(slot_of_pair == slot) for slot in back_and_forth]
