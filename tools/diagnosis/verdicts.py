"""What a rule says of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FEWEST = 10  # entries of a curve before its course is judged


class Sign(Enum):
    """How a rule came out; the value is the word that a page shows."""

    FAULT = "fault"
    FINE = "fine"
    UNKNOWN = "not judged"


@dataclass(frozen=True)
class Judged:
    """The figures that a rule saw, in words, and how it came out."""

    value: str
    sign: Sign


def judged(value: str, is_fault: bool) -> Judged:
    """A fault, or none."""
    return Judged(value, Sign.FAULT if is_fault else Sign.FINE)


def too_few(number: int, what: str = "entries") -> Judged:
    """Too little data to judge by."""
    return Judged(f"too little to judge: {number} {what}, {FEWEST} are needed", Sign.UNKNOWN)
