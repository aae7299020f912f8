"""Rows without pictures that practise single steps, many in a row: small models learn from them to use what they wrote.

    practise(random.Random(0))    # ("I see red three, ... Say again: circle, ...", "I see circle one, ...")

In answers to questions about pictures a step occurs once, among much else; here it is nearly all that is learnt from.
"""

from __future__ import annotations

import random

from tools.visual_reasoning.scenes import COLOURS, HEIGHTS, SHAPES, Shape, draw_scene
from tools.visual_reasoning.tasks import NUMBERS, TASKS, judge, neighbours, plural, tell

WORDS = (*COLOURS, *SHAPES)
IN_A_ROW = 7


def practise(rng: random.Random) -> tuple[str, str]:
    """An exercise of any kind and its answer."""
    return rng.choice((recall, calculate, tell_apart, go_around))(rng)


def recall(rng: random.Random) -> tuple[str, str]:
    """Words with a number each, to be said again in another order."""
    numbers = {word: rng.choice(NUMBERS[:10]) for word in rng.sample(WORDS, len(WORDS))}
    again = rng.sample(WORDS, len(WORDS))
    told = ", ".join(f"{word} {number}" for word, number in numbers.items())
    return f"I see {told}. Say again: {', '.join(again)}.", tell(f"{word} {numbers[word]}" for word in again)


def calculate(rng: random.Random) -> tuple[str, str]:
    """Sums and differences of the heights of bars."""
    asked, results = [], []
    for _ in range(IN_A_ROW):
        (left, right), (one, other) = rng.sample(list(COLOURS), 2), rng.sample(HEIGHTS, 2)
        if rng.random() < 0.5:
            asked.append(f"{left} {NUMBERS[one]} and {right} {NUMBERS[other]}")
            results.append(NUMBERS[one + other])
        else:
            asked.append(f"{left} {NUMBERS[max(one, other)]} less {right} {NUMBERS[min(one, other)]}")
            results.append(NUMBERS[abs(one - other)])
    solved = (f"{text}: {result}" for text, result in zip(asked, results, strict=True))
    return f"Calculate: {', '.join(asked)}.", f"Take {', '.join(solved)}."


def tell_apart(rng: random.Random) -> tuple[str, str]:
    """Which of many things have a colour or a shape."""
    things = [Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(IN_A_ROW)]
    attribute = rng.choice(WORDS)
    return f"Which are {plural(attribute)}? {', '.join(map(str, things))}.", judge(things, attribute)


def go_around(rng: random.Random) -> tuple[str, str]:
    """What stands beside things of a scene that is told."""
    scene, place = draw_scene(rng), TASKS["place"]
    asked = neighbours(scene)
    if not asked:
        return go_around(rng)
    rng.shuffle(asked)
    ways = [place.solve(scene, words).steps for words in asked]
    wanted = ", ".join(f"{side} the {shape}" for side, shape in asked)
    return f"{ways[0][0]} What is {wanted}?", "\n\n".join(step for _, step in ways)
