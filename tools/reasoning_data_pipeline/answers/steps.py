"""Answers as texts of steps: how they are split and cut, and what a prefix of steps is worth. Pure, no engine.

VisualPRM (arXiv 2503.10291): the expected accuracy of step i is the share of right answers among continuations of the
prefix that ends with step i. A step that was not measured has no label. `answer_prefix` is DropoutNTP's cut
(arXiv 2411.10442, section 3.2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from internvl_chat.model.critic_turns import RIGHT, STEP_BREAK, WRONG
from internvl_chat.model.critic_turns import split_steps as split_steps  # those who score steps find it here
from internvl_chat.records.rows import RecordError, Source, shown

# Scripts written without spaces between words, with the marks that belong to the character before them.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
_UNSPACED += "\U00020000-\U0003ffff"
_MARKS = r"[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u3099\u309a\ufe00-\ufe0f]*"
_UNIT = re.compile(rf"[{_UNSPACED}]{_MARKS}|[^\s{_UNSPACED}]+")


def answer_prefix(answer: str, ratio: float) -> str:
    """The first `ratio` (0..1) of an answer, without the space behind it: `answer.startswith(prefix)` always holds.

    Counted in words where the text has spaces and in characters where its script has none, rounded down.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"--start-ratio must be in 0..1, not {ratio}")
    if ratio == 1:
        return answer
    ends = [unit.end() for unit in _UNIT.finditer(answer)]
    kept = math.floor(ratio * len(ends))
    return answer[: ends[kept - 1]] if kept else ""


@dataclass(frozen=True)
class ScoredStep:
    """One step and how often continuations behind it came out right, or what a critic says of it.

    Attributes:
        step: its text.
        score: expected accuracy, or the critic's probability that it is right, in 0..1; 0 where nothing was measured.
        num_mc_correct: right continuations; None of a critic's score.
        num_mc_total: judged continuations; 0 means not measured, None that a critic scored the step.
    """

    step: str
    score: float = 0.0
    num_mc_correct: int | None = 0
    num_mc_total: int | None = 0

    @property
    def measured(self) -> bool:
        """Whether the score says anything."""
        return self.num_mc_total is None or self.num_mc_total > 0

    @classmethod
    def by_critic(cls, step: str, score: float) -> ScoredStep:
        """A step that a critic scored, in place of continuations."""
        return cls(step, score, None, None)

    def label(self, threshold: float) -> str | None:
        """'+' for a score above the threshold, '-' for one at or below it, None for a step that was not measured."""
        if not self.measured:
            return None
        return RIGHT if self.score > threshold else WRONG

    @classmethod
    def from_row(cls, row: object, where: Source) -> ScoredStep:
        """Check one entry of `steps_with_score`; RecordError names the field."""
        if not isinstance(row, dict) or not isinstance(row.get("step"), str):
            raise RecordError(*where, f"a step must be an object with a string 'step', not {shown(row)}")
        score, correct, total = (row.get(name) for name in ("score", "num_mc_correct", "num_mc_total"))
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise RecordError(*where, f"a step's 'score' must be a number in 0..1, not {shown(score)}")
        if "num_mc_correct" not in row and "num_mc_total" not in row:
            return cls.by_critic(row["step"], float(score))
        if type(correct) is not int or type(total) is not int or not 0 <= correct <= total:
            raise RecordError(*where, f"0 <= num_mc_correct <= num_mc_total must hold, not {correct!r} and {total!r}")
        return cls(row["step"], float(score), correct, total)

    def to_row(self) -> dict[str, Any]:
        """The JSON entry of `steps_with_score`; a critic's has no counts."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class StepPrefix:
    """What the engine continues: answer number `response` up to and including its step number `step`."""

    response: int
    step: int
    text: str


def score_steps(
    responses: Sequence[Sequence[str]],
    count_correct: Callable[[list[StepPrefix]], Sequence[tuple[int, int]]],
    *,
    early_stop: bool,
) -> list[list[ScoredStep]]:
    """Score every step of several answers by Monte-Carlo continuation, one level of all answers per call.

    Args:
        responses: the steps of each answer.
        count_correct: continues prefixes; returns (right, judged) for each, judged >= right >= 0.
        early_stop: an answer's steps behind one that no continuation saved are not measured.

    Returns:
        The scored steps of each answer, as many as it has steps.
    """
    scored = [[ScoredStep(step) for step in steps] for steps in responses]
    alive = list(range(len(responses)))
    for level in range(max(map(len, responses), default=0)):
        alive = [index for index in alive if level < len(responses[index])]
        if not alive:
            break
        batch = [StepPrefix(i, level, STEP_BREAK.join(responses[i][: level + 1])) for i in alive]
        for prefix, (correct, total) in zip(batch, count_correct(batch), strict=True):
            score = correct / total if total else 0.0
            scored[prefix.response][level] = ScoredStep(responses[prefix.response][level], score, correct, total)
        if early_stop:
            alive = [i for i in alive if scored[i][level].num_mc_correct or not scored[i][level].measured]
    return scored
