"""Questions about a scene, and their answers: short ones, step-by-step ones, and step-by-step ones with a slip.

What is seen is asked directly and answered in a word (`look`). A task is answered step by step: say what is there, list
what is meant, count. Whoever slips looks at the upper half of the picture only and goes on from there: the first step
is wrong, the answer often right by luck, as nothing in the lower half may count. So answers that were checked are no
proof of right steps, here as in the data that the paper is about.

    question = ask(scene, "count", random.Random(0))
    question.text                   # How many red shapes are there?
    question.solution().response    # red circle, nothing, ...\n\nred shapes: red circle: 1.\n\nFinal answer: 1
    question.slip().response        # nothing, nothing, ...\n\nred shapes: none: 0.\n\nFinal answer: 0
    look(scene, random.Random(0))   # ("What is at the top left?", "red circle")
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.reasoning_data_pipeline.prompts.wording import INSTRUCTIONS, REASONING
from tools.visual_reasoning.scenes import COLOURS, PLACES, SHAPES, Scene, Shape, draw_scene

DESCRIBE = "What is in the picture?"
TASKS = {"count": "How many {0} are there?"}


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
class SceneQuestion:
    """A task of TASKS on a scene; `subject` is the colour or shape that it asks about."""

    scene: Scene
    task: str
    subject: str

    @property
    def text(self) -> str:
        """The question as written in a prompt row."""
        return TASKS[self.task].format(name_of(self.subject))

    @property
    def step_by_step(self) -> str:
        """The question in the words in which the sampling pipelines ask for reasoning."""
        return INSTRUCTIONS["en"].format(reasoning=REASONING["plain"]["en"], question=self.text)

    def solution(self) -> Reasoning:
        """Right steps to the right answer: small models reason over what they wrote down."""
        things = self.scene.having(self.subject)
        listed = f"{name_of(self.subject)}: {list_of(things)}: {len(things)}."
        return Reasoning((describe(self.scene), listed), str(len(things)))

    def slip(self) -> Reasoning:
        """Steps of who looks at the upper half only, to an answer that is right where nothing below it counts."""
        return SceneQuestion(self.scene.upper_half, self.task, self.subject).solution()


def name_of(subject: str) -> str:
    """All things of a colour or of a shape, in words."""
    return f"{subject} shapes" if subject in COLOURS else f"{subject}s"


def list_of(things: Sequence[Shape]) -> str:
    """Things in words, apart by commas."""
    return ", ".join(map(str, things)) or "none"


def describe(scene: Scene) -> str:
    """Everything that the picture shows, in reading order."""
    return ", ".join(str(cell or "nothing") for cell in scene.cells) + "."


def look(scene: Scene, rng: random.Random, kinds: Sequence[str] | None = None) -> tuple[str, str]:
    """A question about what is seen, of any or of these kinds of LOOKS, and its short answer."""
    return LOOKS[rng.choice(list(kinds or LOOKS))](scene, rng)


def _what(scene: Scene, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(PLACES))
    return f"What is at the {PLACES[place]}?", str(scene.cells[place] or "nothing")


def _is_there(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Yes or no, about as often: whoever answers yes too often sees what is not there."""
    is_of_scene = rng.random() < 0.45
    thing = rng.choice(scene.things) if is_of_scene else Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES))
    return f"Is there a {thing}?", "yes" if thing in scene.things else "no"


def _how_many(scene: Scene, rng: random.Random) -> tuple[str, str]:
    subject = rng.choice([*COLOURS, *SHAPES])
    return f"How many {name_of(subject)} are there?", str(len(scene.having(subject)))


def _which(scene: Scene, rng: random.Random) -> tuple[str, str]:
    subject = rng.choice([*COLOURS, *SHAPES])
    return f"Which {name_of(subject)} are there?", list_of(scene.having(subject))


LOOKS: dict[str, Callable[[Scene, random.Random], tuple[str, str]]] = {
    "what": _what,
    "is there": _is_there,
    "how many": _how_many,
    "which": _which,
}


IN_A_WORD = ("what", "is there", "how many")


def ask(scene: Scene, task: str, rng: random.Random) -> SceneQuestion:
    """A random question of this task about the scene.

    Raises:
        ValueError: there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"no task {task!r}: there are {list(TASKS)}")
    return SceneQuestion(scene, task, rng.choice(rng.choice((list(COLOURS), list(SHAPES)))))


def ask_anything(rng: random.Random, *, held_out: bool = False) -> SceneQuestion:
    """A random question about a scene of the training or of the held-out split; its lower half is not empty."""
    scene = draw_scene(rng)
    while scene.is_held_out != held_out or scene == scene.upper_half:
        scene = draw_scene(rng)
    return ask(scene, rng.choice(list(TASKS)), rng)
