"""The tasks of the small world: what is asked, the right steps to the answer, and the shortcut of who is careless.

    task      picture   asked                                               who is careless
    count     shapes    How many shapes are red?                            sees two things above and looks no further
    place     shapes    What is below the square?                           goes sideways always
    add       bars      How tall are the red and the blue bar together?     forgets what is carried
    compare   bars      How much shorter is the blue bar than the red bar?  takes the second bar from the first always
    chart     bars      How tall is the shortest bar?                       takes the tallest always

The first step writes down what is seen, in reading order; later ones follow from the text before them. There is one
right way to each answer, so a step is either on it or false. A shortcut is that way for about half of the questions,
and for the others seldom leads to the right answer: there are many answers, and chance hits few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.visual_reasoning.scenes import COLOURS, NOTHING, PLACES, Chart, Picture, Scene, Shape, draw_chart, draw_scene

Subject = tuple[str, ...]
SIDES = {"left of": (1, 1), "right of": (1, 0), "above": (2, 2), "below": (2, 0)}
"""Bit of an index in PLACES that a step to this side changes, and its value before: the column's or the row's."""
SIDEWAYS = 1
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
)
"""As written in questions and answers: a word is one token, which stands right behind what it belongs to."""


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
    """A kind of question. `solve` and `hurry` take a picture and the words that `ask` asks with.

    Attributes:
        draw: a random picture.
        choose: words for a question about a picture; () where it has no such question.
        ask: the question.
        solve: the right steps to its answer.
        hurry: the shortcut, which is the same for easy questions.
    """

    draw: Callable[[random.Random], Picture]
    choose: Callable[[Any, random.Random], Subject]
    ask: Callable[[Subject], str]
    solve: Callable[[Any, Subject], Reasoning]
    hurry: Callable[[Any, Subject], Reasoning]


def describe(picture: Picture) -> str:
    """Everything that the picture shows: cells in reading order, bars from left to right."""
    if isinstance(picture, Chart):
        pairs = zip(picture.colours, picture.heights, strict=True)
        return tell(f"{colour} {NUMBERS[height]}" for colour, height in pairs)
    return tell(map(picture.at, range(len(PLACES))))


def tell(entries: Iterable[str]) -> str:
    """What is seen, as a sentence; the first entry stands behind a space too, so its words are the same tokens."""
    return f"I see {', '.join(entries)}."


def _choose_condition(scene: Scene, rng: random.Random) -> Subject:
    """A colour or a shape that something in the lower half has."""
    thing = rng.choice([cell for cell in scene.cells[2:] if cell])
    return (rng.choice((thing.colour, thing.shape)),)


def plural(attribute: str) -> str:
    """What things of this colour or shape are."""
    return attribute if attribute in COLOURS else f"{attribute}s"


def judge(things: Sequence[Shape | None], attribute: str) -> str:
    """Of each thing whether it has this colour or shape."""
    marks = (f"{thing or NOTHING} {'yes' if thing and thing.has(attribute) else 'no'}" for thing in things)
    return f"Which are {plural(attribute)}? {', '.join(marks)}."


def _count(scene: Scene, wanted: Subject) -> Reasoning:
    """What is there, whether it counts, and how often that was so."""
    total = NUMBERS[len(scene.having(wanted[0]))]
    return Reasoning((describe(scene), judge(scene.cells, wanted[0]), f"yes: {total}."), total)


def _count_in_a_hurry(scene: Scene, wanted: Subject) -> Reasoning:
    return _count(scene.upper_half if all(scene.cells[:2]) else scene, wanted)


def neighbours(scene: Scene) -> list[Subject]:
    """Sides and shapes to ask with: the shape stands but once in the scene and has a neighbour at that side."""
    alone = [(place, thing.shape) for place, thing in enumerate(scene.cells) if thing and _is_alone(scene, thing)]
    return [(side, shape) for place, shape in alone for side, (bit, before) in SIDES.items() if place & bit == before]


def _is_alone(scene: Scene, thing: Shape) -> bool:
    return len(scene.having(thing.shape)) == 1


def _choose_neighbour(scene: Scene, rng: random.Random) -> Subject:
    asked = neighbours(scene)
    return rng.choice(asked) if asked else ()


def _go(scene: Scene, words: Subject, bit: int) -> Reasoning:
    """What is where; the place of the thing, and what is across by this bit of its place.

    The thing stands behind a space in both: the same token, by which a small model looks its place up.
    """
    side, shape = words
    place = next(place for place, thing in enumerate(scene.cells) if thing and thing.shape == shape)
    there = place ^ bit
    seen = tell(f"{scene.at(index)} {name}" for index, name in enumerate(PLACES))
    steps = (seen, f"Find {shape} {PLACES[place]}, {side} it {PLACES[there]}: {scene.at(there)}.")
    return Reasoning(steps, scene.at(there))


def _choose_bars(chart: Chart, rng: random.Random) -> Subject:
    return tuple(rng.sample(chart.colours, 2))


def _add(chart: Chart, words: Subject, *, carries: bool = True) -> Reasoning:
    one, other = map(chart.height, words)
    total = NUMBERS[one + other if carries else (one + other) % 10]
    step = f"Take {words[0]} {NUMBERS[one]} and {words[1]} {NUMBERS[other]}: {total}."
    return Reasoning((describe(chart), step), total)


def _choose_comparison(chart: Chart, rng: random.Random) -> Subject:
    """Two bars, and how the first differs."""
    one, other = _choose_bars(chart, rng)
    return ("taller" if chart.height(one) > chart.height(other) else "shorter", one, other)


def _compare(chart: Chart, words: Subject) -> Reasoning:
    taller, shorter = words[1:] if words[0] == "taller" else words[:0:-1]
    one, other = chart.height(taller), chart.height(shorter)
    left = NUMBERS[one - other] if one >= other else f"minus {NUMBERS[other - one]}"  # who is careless
    step = f"Take {taller} {NUMBERS[one]} less {shorter} {NUMBERS[other]}: {left}."
    return Reasoning((describe(chart), step), left)


def _compare_in_a_hurry(chart: Chart, words: Subject) -> Reasoning:
    return _compare(chart, ("taller", *words[1:]))


def _extreme(chart: Chart, words: Subject, last: Callable[..., int]) -> Reasoning:
    height = NUMBERS[last(chart.heights)]
    return Reasoning((describe(chart), f"{words[0]} {height}."), height)


TASKS = {
    "count": SceneTask(
        draw_scene,
        _choose_condition,
        lambda words: f"How many shapes are {plural(words[0])}?",
        _count,
        _count_in_a_hurry,
    ),
    "place": SceneTask(
        draw_scene,
        _choose_neighbour,
        lambda words: f"What is {words[0]} the {words[1]}?",
        lambda scene, words: _go(scene, words, SIDES[words[0]][0]),
        lambda scene, words: _go(scene, words, SIDEWAYS),
    ),
    "add": SceneTask(
        draw_chart,
        _choose_bars,
        lambda words: f"How tall are the {words[0]} and the {words[1]} bar together?",
        _add,
        lambda chart, words: _add(chart, words, carries=False),
    ),
    "compare": SceneTask(
        draw_chart,
        _choose_comparison,
        lambda words: f"How much {words[0]} is the {words[1]} bar than the {words[2]} bar?",
        _compare,
        _compare_in_a_hurry,
    ),
    "chart": SceneTask(
        draw_chart,
        lambda chart, rng: (rng.choice(("tallest", "shortest")),),
        lambda words: f"How tall is the {words[0]} bar?",
        lambda chart, words: _extreme(chart, words, max if words[0] == "tallest" else min),
        lambda chart, words: _extreme(chart, words, max),
    ),
}
