"""The kinds of word problem, read from kinds.json: their steps, the ranges of their numbers, and their sentences.

A problem is one sentence of each part, so a kind has as many templates as there are choices. The first `TAUGHT`
sentences of a part are those of the worked solutions that the start learns the form from; all that are `said` are in
questions to sample answers to, of which only the final answer is known; those of `held_out` are in held-out questions
alone. Kinds under "held out" are never trained on. In a step, s1 is the result of the first. The splits of
`problems.PLAIN_SPLITS` have one template of each of `PLAIN_KINDS` for every use: held-out questions have other names
and numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TAUGHT = 2
PLAIN_KINDS = (
    "gain and lose",
    "more than",
    "fewer than",
    "bags and some left",
    "bags and some more",
    "change",
    "share the rest",
)
FILE = Path(__file__).with_name("kinds.json")


@dataclass(frozen=True)
class Part:
    """Ways to say one part of a problem: sentences with places for {name}, {other}, {things} and numbers."""

    said: tuple[str, ...]
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        steps: of the solution, `left operator right` each; the last result is the answer.
        ranges: of the numbers, both ends included.
        parts: in the order in which they are told.
    """

    steps: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int]]
    parts: tuple[Part, ...]


@cache
def read_kinds() -> dict[str, dict[str, Kind]]:
    """`trained` and `held out` -> name -> kind."""
    groups = json.loads(FILE.read_text(encoding="utf-8"))
    return {group: {name: _kind(**fields) for name, fields in kinds.items()} for group, kinds in groups.items()}


def _kind(steps: list[str], ranges: dict[str, list[int]], parts: list[dict[str, list[str]]]) -> Kind:
    bounds = {name: (low, high) for name, (low, high) in ranges.items()}
    return Kind(tuple(steps), bounds, tuple(Part(**{use: tuple(said) for use, said in part.items()}) for part in parts))
