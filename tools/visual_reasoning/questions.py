"""Questions about a picture of the small world: what is seen, to be answered in a word, and tasks that need reasoning.

A task (`tasks.TASKS`) is answered step by step. Each step is known to be true or false, so right steps can be told
from right answers: `steps.judge_steps`. Asked directly, a task is as hard as its steps together.

    question = ask_anything(random.Random(1))
    question.text                   # How many shapes are red?
    question.solution().response    # red circle no, ...\n\nyes: two.\n\nFinal answer: two
    question.slip(rng).response     # of who looks at the upper half only, say
    look(scene, rng, "what")        # ("What is in the northwest?", "red circle")
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tools.reasoning_data_pipeline.prompts.wording import INSTRUCTIONS, REASONING
from tools.visual_reasoning.scenes import COLOURS, PLACES, SHAPES, Chart, Picture, Scene, Shape, is_held_out
from tools.visual_reasoning.tasks import NUMBERS, TASKS, Reasoning, Subject

DESCRIBE = "What is in the picture?"
PROBE = "is there"  # of LOOKS


@dataclass(frozen=True)
class SceneQuestion:
    """A task of TASKS on a picture; `subject` are the words that it asks with."""

    scene: Picture
    task: str
    subject: Subject

    @property
    def text(self) -> str:
        """The question as written in a prompt row."""
        return TASKS[self.task].ask(self.subject)

    @property
    def step_by_step(self) -> str:
        """The question in the words in which the sampling pipelines ask for reasoning."""
        return INSTRUCTIONS["en"].format(reasoning=REASONING["plain"]["en"], question=self.text)

    def solution(self) -> Reasoning:
        """Right steps to the right answer: small models reason over what they wrote down."""
        return TASKS[self.task].solve(self.scene, self.subject)

    def hurry(self) -> Reasoning:
        """The shortcut of this task: wrong steps for about half of the questions, the right ones for the others."""
        return TASKS[self.task].hurry(self.scene, self.subject)

    def misread(self, rng: random.Random) -> Reasoning:
        """The right way on from a picture of which one entry was misread."""
        seen = self.scene.misread(rng, keep=self.subject[-1] if self.task == "place" else "")
        return replace(self, scene=seen).solution()

    def slip(self, rng: random.Random) -> Reasoning:
        """Careless steps: the shortcut where it is wrong, else one entry misread."""
        hurried = self.hurry()
        return hurried if hurried != self.solution() else self.misread(rng)


def ask_anything(rng: random.Random, *, held_out: bool = False) -> SceneQuestion:
    """A random question about a picture of the training or of the held-out split, tasks equally often."""
    task = rng.choice(list(TASKS))
    while True:
        picture = TASKS[task].draw(rng)
        if is_held_out(picture) == held_out and (subject := TASKS[task].choose(picture, rng)):
            return SceneQuestion(picture, task, subject)


def look(picture: Picture, rng: random.Random, kind: str) -> tuple[str, str]:
    """A question about what is seen, of one of the kinds of LOOKS for such pictures, and its short answer."""
    return LOOKS[type(picture)][kind](picture, rng)


def look_around(picture: Picture, rng: random.Random) -> list[tuple[str, str]]:
    """A question of each kind of LOOKS about what is seen, and its short answer."""
    return [look(picture, rng, kind) for kind in LOOKS[type(picture)]]


def _what(scene: Scene, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(PLACES))
    return f"What is in the {PLACES[place]}?", scene.at(place)


def _where(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Of a thing that stands there once, if there is one."""
    alone = [thing for thing in scene.things if scene.cells.count(thing) == 1]
    if not alone:
        return _what(scene, rng)
    thing = rng.choice(alone)
    return f"Where is the {thing}?", PLACES[scene.cells.index(thing)]


def _is_there(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Yes or no, about as often: whoever answers yes too often sees what is not there."""
    is_of_scene = rng.random() < 0.45
    thing = rng.choice(scene.things) if is_of_scene else Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES))
    return f"Is there a {thing}?", "yes" if thing in scene.things else "no"


def _how_tall(chart: Chart, rng: random.Random) -> tuple[str, str]:
    colour = rng.choice(chart.colours)
    return f"How tall is the {colour} bar?", NUMBERS[chart.height(colour)]


def _which(chart: Chart, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(chart.colours))
    return f"Which bar is {NUMBERS[chart.heights[place]]} tall?", chart.colours[place]


LOOKS: dict[type, dict[str, Callable[..., tuple[str, str]]]] = {
    Scene: {"what": _what, "where": _where, PROBE: _is_there},
    Chart: {"how tall": _how_tall, "which": _which},
}
