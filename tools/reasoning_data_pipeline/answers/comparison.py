"""What comparison rules take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from tools.reasoning_data_pipeline.answers.reading import Reading, read

MAX_RECURSION = 4


@dataclass(frozen=True)
class Finding:
    """What the rules say: whether the answers agree (None: only algebra can tell) and the rule that decided."""

    agree: bool | None
    rule: str


@dataclass(frozen=True)
class Scope:
    """Where a comparison stands.

    Attributes:
        relaxed: numbers may be off by 5 % (charts).
        depth: how many lists and equations enclose the two; beyond `MAX_RECURSION` only their text counts.
        compare: compares the parts of two answers, `rules.compare`.
    """

    relaxed: bool = False
    depth: int = 0
    compare: Callable[[Reading, Reading, Scope], Finding] | None = None

    def agree(self, predicted: str, gold: str) -> bool:
        """Whether parts of two answers agree, by the same rules."""
        if self.compare is None:
            raise ValueError("a scope compares parts only when rules.compare has made it")
        return self.compare(read(predicted), read(gold), self._within).agree is True

    @cached_property
    def _within(self) -> Scope:
        return replace(self, depth=self.depth + 1)


TOP, RELAXED = Scope(), Scope(relaxed=True)
"""Where two answers are compared as a whole, without and with the tolerance of charts."""

Rule = Callable[[Reading, Reading, Scope], bool | None]
"""Whether two answers agree; None where the rule cannot tell, or another reading of either makes sense too."""
