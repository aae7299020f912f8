"""The tasks of the small world: what is asked, the right steps to the answer, and the careless ones.

    task      picture   asked                                               who is careless
    count     shapes    How many shapes are not red?                        looks at the upper half only
    place     shapes    What is left of the blue square?                    takes rows for columns
    add       bars      How tall are the red and the blue bar together?     reads the bar beside the second one
    compare   bars      How much taller is the red bar than the blue bar?   does not look at the second bar
    chart     bars      Which bar is the tallest?                           orders the wrong way around

A step is one look, or one conclusion from what stands before. There is one right way to each answer, so a step is
either on it or false. Careless steps rarely lead to the right answer: there are many answers, and chance hits few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.visual_reasoning.scenes import COLOURS, PLACES, SHAPES, Chart, Picture, Scene, Shape, draw_chart, draw_scene

Subject = tuple[str, ...]
SIDES = {"left of": (1, 1), "right of": (1, 0), "above": (2, 2), "below": (2, 0)}
"""Bit of an index in PLACES that a step to this side changes, and its value before: the column's or the row's."""
SIDE_BITS = 3
UNSEEN = 1  # height given to a bar that nobody looked at


@dataclass(frozen=True)
class Reasoning:
    """Steps of reasoning and the answer they lead to; `response` is what a model should write."""

    steps: tuple[str, ...]
    answer: str

    @property
    def response(self) -> str:
        """Steps apart by blank lines (a step is what VisualPRM scores), then the final line."""
        return "\n\n".join((*self.steps, f"Final answer: {self.answer}"))


@dataclass(frozen=True)
class SceneTask:
    """A kind of question. `solve` and `slip` take a picture and the words that `ask` asks with.

    Attributes:
        draw: a random picture.
        choose: words for a question about a picture; () where it has no such question.
        ask: the question.
        solve: the right steps to its answer.
        slip: the careless ones.
    """

    draw: Callable[[random.Random], Picture]
    choose: Callable[[Any, random.Random], Subject]
    ask: Callable[[Subject], str]
    solve: Callable[[Any, Subject], Reasoning]
    slip: Callable[[Any, Subject], Reasoning]


def _choose_condition(scene: Scene, rng: random.Random) -> Subject:
    """What counts: not a colour or shape, or either of two."""
    return tuple(rng.sample(rng.choice((list(COLOURS), list(SHAPES))), rng.choice((1, 2))))


def _ask_count(wanted: Subject) -> str:
    names = [name if name in COLOURS else f"{name}s" for name in wanted]
    return f"How many shapes are {' or '.join(names) if len(names) > 1 else f'not {names[0]}'}?"


def _counts(thing: Shape | None, wanted: Subject) -> bool:
    return thing is not None and any(map(thing.has, wanted)) == (len(wanted) > 1)


def _count(scene: Scene, wanted: Subject) -> Reasoning:
    """A look at each place with the count so far."""
    steps, total = [], 0
    for place, name in enumerate(PLACES):
        total += _counts(scene.cells[place], wanted)
        steps.append(f"{name}: {scene.at(place)}, {total}.")
    return Reasoning(tuple(steps), str(total))


def _choose_neighbour(scene: Scene, rng: random.Random) -> Subject:
    """A side and a thing that stands but once in the scene and has a neighbour there."""
    side = rng.choice(list(SIDES))
    bit, before = SIDES[side]
    things = [thing for place, thing in enumerate(scene.cells) if thing and place & bit == before]
    alone = [str(thing) for thing in things if scene.cells.count(thing) == 1]
    return (side, rng.choice(alone)) if alone else ()


def _go(scene: Scene, words: Subject, bit: int) -> Reasoning:
    """Find the thing, go across by this bit of its place, look there."""
    side, thing = words
    place = list(map(str, scene.cells)).index(thing)
    there = place ^ bit
    steps = (f"{thing}: {PLACES[place]}.", f"{side} it: {PLACES[there]}.", f"{PLACES[there]}: {scene.at(there)}.")
    return Reasoning(steps, scene.at(there))


def _choose_bars(chart: Chart, rng: random.Random) -> Subject:
    return tuple(rng.sample(chart.colours, 2))


def _choose_taller(chart: Chart, rng: random.Random) -> Subject:
    """Two bars, the taller one first."""
    return tuple(sorted(_choose_bars(chart, rng), key=chart.height, reverse=True))


def _add(words: Subject, one: int, other: int) -> Reasoning:
    return _reckon(words, (one, other), f"{one} + {other} = {one + other}.", one + other)


def _subtract(words: Subject, one: int, other: int) -> Reasoning:
    return _reckon(words, (one, other), f"{one} - {other} = {one - other}.", one - other)


def _reckon(words: Subject, heights: Sequence[int], step: str, answer: int) -> Reasoning:
    """Looks at bars and what follows from them."""
    looks = (f"{colour}: {height}." for colour, height in zip(words, heights, strict=True))
    return Reasoning((*looks, step), str(answer))


def _beside(chart: Chart, colour: str) -> int:
    """Height of the next bar to the right; the first one's for the last."""
    return chart.heights[(chart.colours.index(colour) + 1) % len(chart.heights)]


def _order(chart: Chart, words: Subject, *, is_reversed: bool) -> Reasoning:
    """A look at each bar, then which one is meant."""
    last = max if (words[0] == "tallest") != is_reversed else min
    found = last(chart.colours, key=chart.height)
    looks = (f"{colour}: {height}." for colour, height in zip(chart.colours, chart.heights, strict=True))
    return Reasoning((*looks, f"{words[0]}: {found}."), found)


TASKS = {
    "count": SceneTask(
        draw_scene, _choose_condition, _ask_count, _count, lambda scene, words: _count(scene.upper_half, words)
    ),
    "place": SceneTask(
        draw_scene,
        _choose_neighbour,
        lambda words: f"What is {words[0]} the {words[1]}?",
        lambda scene, words: _go(scene, words, SIDES[words[0]][0]),
        lambda scene, words: _go(scene, words, SIDE_BITS ^ SIDES[words[0]][0]),
    ),
    "add": SceneTask(
        draw_chart,
        _choose_bars,
        lambda words: f"How tall are the {words[0]} and the {words[1]} bar together?",
        lambda chart, words: _add(words, chart.height(words[0]), chart.height(words[1])),
        lambda chart, words: _add(words, chart.height(words[0]), _beside(chart, words[1])),
    ),
    "compare": SceneTask(
        draw_chart,
        _choose_taller,
        lambda words: f"How much taller is the {words[0]} bar than the {words[1]} bar?",
        lambda chart, words: _subtract(words, chart.height(words[0]), chart.height(words[1])),
        lambda chart, words: _subtract(words, chart.height(words[0]), UNSEEN),
    ),
    "chart": SceneTask(
        draw_chart,
        lambda chart, rng: (rng.choice(("tallest", "shortest")),),
        lambda words: f"Which bar is the {words[0]}?",
        lambda chart, words: _order(chart, words, is_reversed=False),
        lambda chart, words: _order(chart, words, is_reversed=True),
    ),
}
