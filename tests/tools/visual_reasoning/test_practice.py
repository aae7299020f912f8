"""Exercises of the small world: steps of reasoning without pictures."""

import random
import re

import pytest

from tools.visual_reasoning.practice import IN_A_ROW, WORDS, calculate, go_around, practise, recall, tell_apart
from tools.visual_reasoning.tasks import NUMBERS

PLACE = r"(?:north|south)(?:west|east)"
ENTRY = rf"(.+) ({PLACE})"


@pytest.fixture
def rng():
    return random.Random(0)


def test_words_are_said_again_in_another_order(rng):
    text, answer = recall(rng)
    told, again = text.removeprefix("I see ").rstrip(".").split(". Say again: ")
    numbers = dict(pair.split() for pair in told.split(", "))
    assert sorted(numbers) == sorted(again.split(", ")) == sorted(WORDS)
    assert answer == "I see " + ", ".join(f"{word} {numbers[word]}" for word in again.split(", ")) + "."


def test_sums_and_differences_are_right(rng):
    for _ in range(50):
        text, answer = calculate(rng)
        solved = answer.removeprefix("Take ").rstrip(".").split(", ")
        assert text == f"Calculate: {', '.join(one.split(':')[0] for one in solved)}." and len(solved) == IN_A_ROW
        for exercise in solved:
            left, one, sign, right, other, result = exercise.replace(":", "").split()
            total = NUMBERS.index(one) + {"and": 1, "less": -1}[sign] * NUMBERS.index(other)
            assert NUMBERS.index(result) == total and left != right


def test_things_are_told_apart_by_what_is_asked_for(rng):
    for _ in range(50):
        text, answer = tell_apart(rng)
        asked, things = text.rstrip(".").split("? ")
        attribute = asked.removeprefix("Which are ").removesuffix("s")
        marked = [f"{thing} {'yes' if attribute in thing.split() else 'no'}" for thing in things.split(", ")]
        assert answer == f"{asked}? {', '.join(marked)}."


def test_what_stands_beside_a_thing_follows_from_what_is_told(rng):
    for _ in range(50):
        text, answer = go_around(rng)
        told, asked = text.removeprefix("I see ").rstrip("?").split(". What is ")
        at = {place: thing for thing, place in (re.fullmatch(ENTRY, entry).groups() for entry in told.split(", "))}
        steps = answer.split("\n\n")
        assert len(steps) == len(asked.split(", "))
        for step, words in zip(steps, asked.split(", "), strict=True):
            side, asked_shape = words.split(" the ")
            way = re.fullmatch(rf"Find (\w+) ({PLACE}), {side} it ({PLACE}): (.+)\.", step)
            shape, place, there, thing = way.groups()
            assert shape == asked_shape and at[place].endswith(shape) and at[there] == thing


def test_every_kind_is_practised(rng):
    assert {practise(rng)[0].split()[0] for _ in range(500)} >= {"Calculate:", "Which", "I"}
