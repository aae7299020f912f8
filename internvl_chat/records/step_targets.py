"""What a critic learns of a step: right or wrong by the row's own judgement, or by its Monte-Carlo score. No torch.

    StepTargets()                              the judgements of the row, as published: right where the score is above 0
    StepTargets(thresholds=(0.25,))            right above 0.25, wrong at or below
    StepTargets(thresholds=(0.125, 0.75))      only where sure: wrong at or below the first, right from the second on
    StepTargets(soft=True)                     the score itself is the share of `+` to learn

A step that nobody measured, or of which nothing is sure, stays in the conversation and has no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from internvl_chat.model.critic_turns import RIGHT, WRONG
from internvl_chat.records.judged import UNMEASURED, JudgedRow
from internvl_chat.records.rows import RecordError, Source


class Marks(NamedTuple):
    """What is known of each step.

    Attributes:
        words: `+` or `-`, which stands in the conversation; `+` where nothing is known.
        measured: whether it has a loss.
        targets: the share of `+` to learn, 0..1; of no meaning where it has none.
    """

    words: tuple[str, ...]
    measured: tuple[bool, ...]
    targets: tuple[float, ...]

    @classmethod
    def to_score(cls, steps: int) -> Marks:
        """Of a conversation whose steps are all to be scored."""
        return cls((RIGHT,) * steps, (True,) * steps, (1.0,) * steps)

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether a step is taken as right."""
        return tuple(word == RIGHT for word in self.words)

    @property
    def last_measured(self) -> int:
        """How many steps there are up to the last that has a loss; what follows it teaches nothing."""
        return max((number for number, known in enumerate(self.measured, 1) if known), default=0)

    def first(self, steps: int) -> Marks:
        """Those of the first steps."""
        return Marks(self.words[:steps], self.measured[:steps], self.targets[:steps])

    def counts(self) -> tuple[int, int, int, int]:
        """Right, wrong and unmeasured steps, and 1 for a row of which nothing is measured, else 0."""
        known, right = sum(self.measured), sum(map(all, zip(self.measured, self.right, strict=True)))
        return right, known - right, len(self.measured) - known, int(not known)


@dataclass(frozen=True)
class StepTargets:
    """How the steps of a row become targets.

    Attributes:
        thresholds: of the score, one or two, see above; () for the judgements of the rows.
        soft: learn the score in place of 0 or 1.

    Raises:
        ValueError: more than two thresholds, or such as no score can be told apart by.
    """

    thresholds: tuple[float, ...] = ()
    soft: bool = False

    def __post_init__(self) -> None:
        given = self.thresholds
        if len(given) > 2 or not all(0 <= value <= 1 for value in given) or list(given) != sorted(set(given)):
            told = ",".join(f"{value:g}" for value in given)
            raise ValueError(
                f"--step_thresholds {told}: give one score in 0..1 above which a step is right, or two, rising: wrong "
                "up to the first, right from the second on"
            )

    @classmethod
    def parse(cls, thresholds: str | None, *, soft: bool = False) -> StepTargets:
        """From numbers joined by commas; ValueError where they are none, or of `__post_init__`."""
        try:
            return cls(tuple(map(float, thresholds.split(","))) if thresholds else (), soft)
        except ValueError as error:
            if "could not convert" not in str(error):
                raise
            raise ValueError(
                f"--step_thresholds {thresholds}: write one number in 0..1, or two with a comma"
            ) from error

    def marks(self, row: JudgedRow, where: Source) -> Marks:
        """The marks of a row's steps; RecordError where scores are needed and it has none."""
        if row.scores is None and (self.thresholds or self.soft):
            flag = "--step_thresholds" if self.thresholds else "--step_targets scores"
            cure = "write the rows anew with visualprm_build.sh, which keeps them, or leave the flag out"
            raise RecordError(*where, f"field 'scores' is missing, {flag} goes by it: {cure}", "missing_field")
        scores = row.scores or (None,) * len(row.judgements)
        judged = [self._judged(*step) for step in zip(row.judgements, scores, strict=True)]
        # Where nothing is sure the row's own judgement stands in the conversation.
        words = [one or own or RIGHT for one, own in zip(judged, row.judgements, strict=True)]
        hard = [float(word == RIGHT) for word in words]
        targets = [score or 0.0 for score in scores] if self.soft else hard
        return Marks(tuple(words), tuple(map(bool, judged)), tuple(targets))

    def _judged(self, judgement: str, score: float | None) -> str:
        """`+`, `-`, or "" where nothing is sure."""
        if not self.thresholds or score is None:
            return judgement
        if score > self.thresholds[-1] or (len(self.thresholds) == 2 and score == self.thresholds[-1]):
            return RIGHT
        return WRONG if score <= self.thresholds[0] else UNMEASURED
