"""A gold answer with what is equal to it and what is not, and how to change one character of a text."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A gold answer.

    Attributes:
        kind: of answer.
        gold: its text.
        spellings: the same in other words of its own kind.
        changes: different answers.
    """

    kind: str
    gold: str
    spellings: tuple[str, ...]
    changes: tuple[str, ...]


Draw = Callable[[random.Random], Case]


def another_digit(chance: random.Random, text: str) -> str:
    """`text` with one digit changed; a leading one does not become 0."""
    places = [place for place, character in enumerate(text) if character.isdigit()]
    place = chance.choice(places)
    leading = place == 0 or not (text[place - 1].isdigit() or text[place - 1] in ".,")
    digit = chance.choice([d for d in "123456789" + "0" * (not leading) if d != text[place]])
    return text[:place] + digit + text[place + 1 :]


def another_letter(chance: random.Random, word: str) -> str:
    """`word` with one letter changed."""
    place = chance.randrange(len(word))
    letter = chance.choice([letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter != word[place]])
    return word[:place] + letter + word[place + 1 :]
