"""What an engine's time went into, and what bounds it: a line for the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Throughput:
    """Counts tokens, and seconds by what they were spent on.

    Attributes:
        places: answers that can be decoded at once.
        tokens: drawn so far.
        steps: of decoding.
        seconds: by activity.
    """

    places: int
    tokens: int = 0
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def spent(self, activity: str) -> Iterator[None]:
        """Count the time within as that of an activity."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - begin

    def count(self, tokens: int) -> None:
        """Count a step that drew so many tokens."""
        self.tokens += tokens
        self.steps += 1

    @property
    def filled(self) -> float:
        """Share of the places that were filled on average, 0 to 1."""
        return self.tokens / max(1, self.steps * self.places)

    def report(self) -> str:
        """Tokens per second, the share of each activity, and the cure where places stay empty."""
        total = sum(self.seconds.values())
        if not self.tokens:
            return "no token was drawn"
        most = sorted(self.seconds.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {100 * spent / total:.0f} %" for name, spent in most)
        line = f"{self.tokens} tokens in {total:.1f} s, {self.tokens / total:.0f} tokens/s; bound by {shares}"
        line += f"; {100 * self.filled:.0f} % of {self.places} places filled"
        if self.filled < 0.5 and most[0][0] == "decoding":
            line += ": a step reads all weights for few answers, ask for more of them at once"
        return line
