"""Questions about a scene, and their answers: short ones, step-by-step ones, and step-by-step ones with a slip.

A task is solved once, as data: it writes down its facts one by one through a `note`. With the honest note the steps are
right; with a note that slips at one fact (one too many, one too few) everything after it follows from the slip, as in
the answers of a model that misreads or miscalculates. English and Chinese differ in their wording only.

    question = ask(scene, "count", "en", random.Random(0))
    question.text                      # How many circles are there?
    question.solution().response       # Card 1: red circle, ...\n\nCard 1: 2.\n\n2 + 1 = 3.\n\nFinal answer: 3
    question.slip(random.Random(1)).response
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from tools.reasoning_data_pipeline.prompts import INSTRUCTIONS, REASONING
from tools.visual_reasoning.scenes import COLOURS, SHAPES, Kind, Scene, Shape, draw_scene

Note = Callable[[int], int]

TASKS: dict[str, Kind] = {"count": "shapes", "compare": "shapes", "add": "numbers", "chart": "bars"}

WORDING: dict[str, dict[str, str]] = {
    "en": {
        "count": "How many {0} are there?",
        "compare": "Which are more, {0} or {1}?",
        "add": "What is the sum of the numbers?",
        "chart": "How much do the {0} and the {1} differ?",
        "shapes": "How many {0} are on card {1}?",
        "numbers": "Which numbers are there?",
        "bars": "How high is the {0}?",
        "describe": "Describe the picture.",
        "card": "Card {0}: {1}.",
        "value": "{0}: {1}.",
        "list": "Numbers: {0}.",
        "more": "{0} is more than {1}.",
        "same": "{0} is as many as {1}.",
        "equal": "equal",
        "empty": "empty",
        "comma": ", ",
        "thing": "{0} {1}",
        "bar": "{0} bar",
        "colour": "{0} shapes",
        "shape": "{0}s",
        "final": "Final answer: {0}",
    },
    "zh": {
        "count": "有几个{0}？",
        "compare": "{0}和{1}哪个多？",
        "add": "这些数的和是多少？",
        "chart": "{0}和{1}相差多少？",
        "shapes": "第{1}张有几个{0}？",
        "numbers": "有哪些数？",
        "bars": "{0}有多高？",
        "describe": "描述这张图。",
        "card": "第{0}张：{1}。",
        "value": "{0}：{1}。",
        "list": "数字：{0}。",
        "more": "{0}大于{1}。",
        "same": "{0}等于{1}。",
        "equal": "一样多",
        "empty": "空",
        "comma": "，",
        "thing": "{0}{1}",
        "bar": "{0}柱",
        "colour": "{0}图形",
        "shape": "{0}",
        "final": "最终答案：{0}",
    },
}

CHINESE = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "circle": "圆形",
    "square": "方块",
    "triangle": "三角形",
}


@dataclass(frozen=True)
class Solution:
    """Steps of reasoning and the answer they lead to; `response` is what a model should write."""

    steps: tuple[str, ...]
    answer: str
    final: str

    @property
    def response(self) -> str:
        """Steps apart by blank lines (a step is what VisualPRM scores), then the final line."""
        return "\n\n".join((*self.steps, self.final.format(self.answer)))


@dataclass(frozen=True)
class Question:
    """A task of TASKS on a scene; `subjects` are the attributes or bar colours that it asks about."""

    scene: Scene
    task: str
    language: str
    subjects: tuple[str, ...] = ()
    words: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", WORDING[self.language])

    @property
    def text(self) -> str:
        """The question as written in a prompt row."""
        return self.words[self.task].format(*(self._name(subject) for subject in self.subjects))

    @property
    def step_by_step(self) -> str:
        """The question in the words in which the sampling pipelines ask for reasoning."""
        return INSTRUCTIONS[self.language].format(reasoning=REASONING["plain"][self.language], question=self.text)

    def solution(self, note: Note = int) -> Solution:
        """Solve the task, each fact written down as `note` has it."""
        steps = [self.describe()]  # first look, then think: small models learn to reason over what they wrote down
        answer = SOLVERS[self.task](self, note, steps)
        return Solution(tuple(steps), answer, self.words["final"])

    def slip(self, rng: random.Random) -> Solution:
        """A solution with one slip that ends in a wrong answer."""
        facts: list[int] = []

        def remember(value: int) -> int:
            """Note the fact as it is, and that there was one."""
            facts.append(value)
            return value

        right = self.solution(remember).answer
        places = rng.sample(range(len(facts)), len(facts))
        slips = (self.solution(_slipping(place, rng)) for place in places)
        return next(slip for slip in slips if slip.answer != right)  # a slip in the last fact always is one

    def fact(self, rng: random.Random) -> tuple[str, str]:
        """A question about one fact that this one rests on, and its answer: what has to be seen, not thought."""
        scene, ask_for = self.scene, self.words[self.scene.kind]
        if scene.kind == "numbers":
            return ask_for, self.words["comma"].join(map(str, scene.numbers))
        subject = rng.choice(self.subjects)
        if scene.kind == "bars":
            return ask_for.format(self._name(subject)), str(dict(scene.bars)[subject])
        card = rng.randrange(len(scene.cards))
        return ask_for.format(self._name(subject), card + 1), str(scene.counts(subject)[card])

    def describe(self) -> str:
        """Everything that the picture shows, in reading order."""
        scene, comma = self.scene, self.words["comma"]
        if scene.kind == "bars":
            return comma.join(f"{self._bar(colour)} {value}" for colour, value in scene.bars)
        cards = [comma.join(self._thing(item) for item in card) for card in scene.cards]
        return "\n".join(self.words["card"].format(n, card) for n, card in enumerate(cards, 1))

    def _name(self, subject: str) -> str:
        if self.task == "chart":
            return self._bar(subject)
        return self.words["colour" if subject in COLOURS else "shape"].format(self._word(subject))

    def _bar(self, colour: str) -> str:
        return self.words["bar"].format(self._word(colour))

    def _word(self, name: str) -> str:
        return CHINESE[name] if self.language == "zh" else name

    def _thing(self, item: object) -> str:
        if isinstance(item, Shape):
            return self.words["thing"].format(self._word(item.colour), self._word(item.shape))
        return self.words["empty"] if item is None else str(item)


def _slipping(place: int, rng: random.Random) -> Note:
    """A note that is one off at the fact number `place`."""
    seen = count()
    offset = rng.choice((-1, 1))
    return lambda value: abs(value + offset) if next(seen) == place else value


def _sum(values: list[int], note: Note, steps: list[str]) -> int:
    """Add the values from left to right, a step for each plus."""
    total = values[0]
    for value in values[1:]:
        result = note(total + value)
        steps.append(f"{total} + {value} = {result}.")
        total = result
    return total


def _count(question: Question, note: Note, steps: list[str]) -> str:
    values = [note(value) for value in question.scene.counts(question.subjects[0])]
    steps.extend(question.words["card"].format(n, value) for n, value in enumerate(values, 1))
    return str(_sum(values, note, steps))


def _compare(question: Question, note: Note, steps: list[str]) -> str:
    totals = []
    for subject in question.subjects:
        values = [note(value) for value in question.scene.counts(subject)]
        listed = question.words["comma"].join(map(str, values))
        steps.append(question.words["value"].format(question._name(subject), listed))
        totals.append(_sum(values, note, steps))
    first, second = totals
    order = note(1 + (first > second) - (first < second)) % 3
    if order == 1:
        steps.append(question.words["same"].format(first, second))
        return question.words["equal"]
    more, less, winner = (first, second, 0) if order == 2 else (second, first, 1)
    steps.append(question.words["more"].format(more, less))
    return question._name(question.subjects[winner])


def _add(question: Question, note: Note, steps: list[str]) -> str:
    values = [note(value) for value in question.scene.numbers]
    steps.append(question.words["list"].format(question.words["comma"].join(map(str, values))))
    return str(_sum(values, note, steps))


def _chart(question: Question, note: Note, steps: list[str]) -> str:
    heights = dict(question.scene.bars)
    values = [note(heights[colour]) for colour in question.subjects]
    for colour, value in zip(question.subjects, values, strict=True):
        steps.append(question.words["value"].format(question._name(colour), value))
    high, low = max(values), min(values)
    difference = note(high - low)
    steps.append(f"{high} - {low} = {difference}.")
    return str(difference)


SOLVERS: dict[str, Callable[[Question, Note, list[str]], str]] = {
    "count": _count,
    "compare": _compare,
    "add": _add,
    "chart": _chart,
}


def ask(scene: Scene, task: str, language: str, rng: random.Random) -> Question:
    """A random question of this task about the scene.

    Raises:
        ValueError: the task is asked about another kind of picture, or the language is unknown.
    """
    if TASKS.get(task) != scene.kind or language not in WORDING:
        raise ValueError(f"no {task!r} question in {language!r} about {scene.kind!r}; tasks: {TASKS}, {list(WORDING)}")
    if task == "chart":
        subjects = rng.sample([colour for colour, _ in scene.bars], 2)
    else:
        pool = rng.choice((sorted(COLOURS), list(SHAPES)))
        subjects = rng.sample(pool, {"count": 1, "compare": 2, "add": 0}[task])
    return Question(scene, task, language, tuple(subjects))


def ask_anything(rng: random.Random, *, held_out: bool = False, tasks: Sequence[str] = tuple(TASKS)) -> Question:
    """A random question of these tasks in any language about a scene of the training or of the held-out split."""
    task = rng.choice(list(tasks))
    scene = draw_scene(TASKS[task], rng)
    while scene.is_held_out != held_out:
        scene = draw_scene(TASKS[task], rng)
    return ask(scene, task, rng.choice(list(WORDING)), rng)
