"""Word problems of `kinds`: drawn, told in sentences, solved in steps, each step checkable.

A solution is one line of arithmetic per step and the final answer. `judge_steps` says of any answer whether all of its
lines are true, and whether they are the steps of the problem.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.study_pretrained.kinds import PLAIN_KINDS, TAUGHT, Kind, Part, read_kinds

NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mia",
    "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Will",
)  # fmt: skip
THINGS = (
    "pens", "apples", "cards", "shells", "books", "coins", "stamps", "balls", "cups", "keys", "marbles",
    "stickers", "candles", "buttons", "rings",
)  # fmt: skip
LARGEST = 60  # of all numbers in a solution
LINE = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@dataclass(frozen=True)
class PlainSplit:
    """Problems with one template a kind.

    Attributes:
        scale: how many times as large numbers are.
        hurried: share of the worked solutions that are `Problem.hurried`.
    """

    scale: int = 1
    hurried: float = 0.0


PLAIN_SPLITS = {
    "plain": PlainSplit(),
    "large": PlainSplit(scale=2),
    "exact": PlainSplit(scale=2),
    "habit": PlainSplit(hurried=0.7),
}
"""Each is all that the start of its name knows and is asked."""
SPLITS = ("taught", "asked", "held_out", "held_out_kinds", *PLAIN_SPLITS)


@dataclass(frozen=True)
class Step:
    """One line of a solution: left operator right = result."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"

    @property
    def is_true(self) -> bool:
        """Whether the result is that of the sum."""
        return calculate(self.left, self.operator, self.right) == self.result

    @property
    def normal(self) -> tuple[int, str, int, int]:
        """The same for a + b and b + a."""
        sides = (self.left, self.right)
        return (*(sorted(sides) if self.operator in "+*" else sides), self.operator, self.result)


@dataclass(frozen=True)
class Problem:
    """A question, its kind, and the steps of its solution."""

    kind: str
    text: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> str:
        """The last result."""
        return str(self.steps[-1].result)

    @property
    def solution(self) -> str:
        """The steps and the final answer, as a model is to write them."""
        return solution_of(self.steps)

    @property
    def hurried(self) -> str:
        """As who has the habit to add in the last step, whatever is asked: right where it is a sum."""
        *first, last = self.steps
        return solution_of([*first, Step(last.left, "+", last.right, last.left + last.right)])


def solution_of(steps: Sequence[Step]) -> str:
    """Steps, a line each, and the final answer."""
    return "\n".join([*map(str, steps), f"Final answer: {steps[-1].result}"])


def calculate(left: int, operator: str, right: int) -> int | None:
    """The whole number that a step gives; None where it gives none."""
    if operator == "/":
        return left // right if right and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def draw_many(name: str, split: str, number: int) -> list[Problem]:
    """The first so many problems of the draw `name` of a split, no two of one text."""
    found: dict[str, Problem] = {}
    index = 0
    while len(found) < number:
        problem = draw(split, random.Random(f"{name} {split} {index}"))
        found.setdefault(problem.text, problem)
        index += 1
    return list(found.values())


def draw(split: str, rng: random.Random) -> Problem:
    """A problem of one of SPLITS, its kind, sentences, names and numbers drawn."""
    kinds = read_kinds()["held out" if split == "held_out_kinds" else "trained"]
    name = rng.choice(PLAIN_KINDS if split in PLAIN_SPLITS else sorted(kinds))
    kind = kinds[name]
    told = [rng.choice(sentences(part, split)) for part in kind.parts]
    numbers, steps = draw_numbers(kind, rng, PLAIN_SPLITS[split].scale if split in PLAIN_SPLITS else 1)
    one, other = rng.sample(NAMES, 2)
    text = " ".join(told).format(name=one, other=other, things=rng.choice(THINGS), **numbers)
    return Problem(name, text, steps)


def sentences(part: Part, split: str) -> tuple[str, ...]:
    """The sentences of a part that a split may use."""
    if split in PLAIN_SPLITS:
        return part.said[:1]
    return {"taught": part.said[:TAUGHT], "held_out": part.held_out}.get(split, part.said)


def draw_numbers(kind: Kind, rng: random.Random, scale: int = 1) -> tuple[dict[str, int], tuple[Step, ...]]:
    """Numbers by which every step gives a whole number in 1..LARGEST, all bounds times `scale`, and the steps."""
    while True:
        numbers = {name: rng.randint(scale * low, scale * high) for name, (low, high) in kind.ranges.items()}
        steps = tuple(solve(kind, numbers, scale * LARGEST))
        if len(steps) == len(kind.steps):
            return numbers, steps


def solve(kind: Kind, numbers: dict[str, int], largest: int) -> Iterator[Step]:
    """The steps as far as they give whole numbers in 1..largest."""
    known = dict(numbers)
    for index, step in enumerate(kind.steps, 1):
        left, operator, right = step.split()
        result = calculate(known[left], operator, known[right])
        if result is None or not 1 <= result <= largest:
            return
        known[f"s{index}"] = result
        yield Step(known[left], operator, known[right], result)


def read_steps(answer: str) -> list[Step]:
    """The lines of arithmetic in an answer."""
    return [Step(int(left), sign, int(right), int(result)) for left, sign, right, result in LINE.findall(answer)]


def judge_steps(answer: str, steps: Sequence[Step]) -> tuple[bool, bool]:
    """Whether an answer has steps and all are true, and whether they are these, in any order of equal meaning."""
    found = read_steps(answer)
    is_true = bool(found) and all(step.is_true for step in found)
    return is_true, [step.normal for step in found] == [step.normal for step in steps]
