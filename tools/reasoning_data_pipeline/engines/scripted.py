"""The scripted engine: text made of the seed alone, for tests of everything around an engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from tools.reasoning_data_pipeline.engines.protocol import Completion, Request, Result


class ScriptedEngine:
    """Writes short reasoned answers in the form that the question asks for; the seed alone decides each.

    Used to test stores, kills and ranks: equal runs give equal texts, two steps and then one of four answers.
    """

    ANSWERS = ("A", "B", "3", "4")

    def __init__(self, delay: float = 0.0) -> None:
        """Take the seconds that an answer takes."""
        self.delay = delay

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answer requests one by one."""
        for request in requests:
            for sample, seed in request.seeds.items():
                if self.delay:
                    time.sleep(self.delay)
                yield Completion(request.key, sample, self.text(request, seed))

    def text(self, request: Request, seed: int) -> str:
        """The answer for a seed; nothing is left to write behind a prefix that has its final answer."""
        if any(mark in request.prefix for mark in ("Final answer", "答案", "boxed")):
            return ""
        steps = f"Look at part {seed // 4 % 7}.\n\nStep {seed // 28 % 5}: put it together.\n\n"
        answer = self.ANSWERS[seed % 4]
        if "<think>" in request.question:
            return f"<think>{steps}</think>\n\\boxed{{{answer}}}"
        if "boxed" in request.question:
            return f"{steps}Answer: \\boxed{{{answer}}}"
        return steps + (f"答案: {answer}" if "答案" in request.question else f"Final answer: {answer}")

    def close(self) -> None:
        """Nothing to free."""
