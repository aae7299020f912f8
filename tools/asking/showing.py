"""How answers are shown: a thought apart from what follows it, and what one of two has and the other lacks marked."""

from __future__ import annotations

from collections.abc import Sequence

from tools.pages.page import Segments, mark_differences

OPENED, CLOSED = "<think>", "</think>"


def split_thought(answer: str) -> tuple[str, str]:
    """The thought that opens an answer ("" where none does) and the rest; one that never ends is all thought."""
    text = answer.lstrip()
    if not text.startswith(OPENED):
        return "", answer
    thought, _, rest = text.removeprefix(OPENED).partition(CLOSED)
    return thought.strip(), rest.strip()


def marked(texts: Sequence[str]) -> list[Segments]:
    """The texts as (text, whether the other lacks it); of other than two nothing is marked."""
    if len(texts) == 2:
        return list(mark_differences(*texts))
    return [[(text, False)] for text in texts]


def show(answers: Sequence[str]) -> dict[str, list[Segments]]:
    """Answers and their thoughts as segments, under `marked` and `thoughts`."""
    parts = [split_thought(answer) for answer in answers]
    return {"thoughts": marked([thought for thought, _ in parts]), "marked": marked([rest for _, rest in parts])}
