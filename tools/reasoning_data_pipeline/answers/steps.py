"""Answers as steps: splitting, Monte-Carlo scores of step prefixes, and what is made of them. Pure, no engine.

VisualPRM (arXiv 2503.10291): the expected accuracy of step i is the share of right answers among continuations of the
prefix that ends with step i. A step that was not measured has no label. `answer_prefix` is DropoutNTP's cut
(arXiv 2411.10442, section 3.2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from internvl_chat.records.rows import RecordError, Source, shown

STEP_BREAK = "\n\n"

PRM_SYSTEM_PROMPT = """\
You are an advanced AI assistant, designed to serve as a process supervision model. In this task, I will provide a \
problem statement followed by the first step of the solution process. For each subsequent turn, I will give you a new \
step in the solution. Your role is to assess whether the solution process is correct up to the current step.

- In the **first round**, I will input the problem and the first step of the solution process.
- In **each subsequent round**, I will provide the next step in the solution.

For each step, you should:

- Respond with **"+"** if you believe the solution process is correct up to this step.
- Respond with **"-"** if you detect any issues or errors in the process up to this step.

Please note:
- Only respond with **"+"** or **"-"**. Do not provide any additional explanations, comments, or justifications.

Your task is to verify the accuracy and correctness of each step in the given solution process."""

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
        raise ValueError(f"the start ratio must be in 0..1, not {ratio}")
    if ratio == 1:
        return answer
    ends = [unit.end() for unit in _UNIT.finditer(answer)]
    kept = math.floor(ratio * len(ends))
    return answer[: ends[kept - 1]] if kept else ""


def split_steps(response: str, max_steps: int | None = None) -> list[str]:
    """Split at blank lines; neighbours are joined in equal groups so that at most `max_steps` remain (None: all).

    `"\\n\\n".join(split_steps(r, n)) == r` for every response.
    """
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, not {max_steps}")
    pieces = response.split(STEP_BREAK)
    size = 1 if max_steps is None else math.ceil(len(pieces) / max_steps)
    return [STEP_BREAK.join(pieces[start : start + size]) for start in range(0, len(pieces), size)]


@dataclass(frozen=True)
class ScoredStep:
    """One step and how often continuations behind it came out right.

    Attributes:
        step: its text.
        score: expected accuracy in 0..1; 0 where nothing was measured.
        num_mc_correct: right continuations.
        num_mc_total: judged continuations; 0 means not measured.
    """

    step: str
    score: float = 0.0
    num_mc_correct: int = 0
    num_mc_total: int = 0

    @property
    def measured(self) -> bool:
        """Whether the score says anything."""
        return self.num_mc_total > 0

    def label(self, threshold: float) -> str | None:
        """'+' for a score above the threshold, '-' for one at or below it, None for a step that was not measured."""
        if not self.measured:
            return None
        return "+" if self.score > threshold else "-"

    @classmethod
    def from_row(cls, row: object, where: Source) -> ScoredStep:
        """Check one entry of `steps_with_score`; RecordError names the field."""
        if not isinstance(row, dict) or not isinstance(row.get("step"), str):
            raise RecordError(*where, f"a step must be an object with a string 'step', not {shown(row)}")
        score, correct, total = (row.get(name) for name in ("score", "num_mc_correct", "num_mc_total"))
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise RecordError(*where, f"a step's 'score' must be a number in 0..1, not {shown(score)}")
        if type(correct) is not int or type(total) is not int or not 0 <= correct <= total:
            raise RecordError(*where, f"0 <= num_mc_correct <= num_mc_total must hold, not {correct!r} and {total!r}")
        return cls(row["step"], float(score), correct, total)

    def to_row(self) -> dict[str, Any]:
        """The JSON entry of `steps_with_score`."""
        return asdict(self)


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


def outcome_label(steps: Sequence[ScoredStep], threshold: float) -> str | None:
    """The label of a whole answer: that of its last step.

    Where early stopping left the last step unmeasured, no continuation of an earlier prefix came out right, so the
    estimate for the whole answer is 0 as well: '-'. None where nothing decides.
    """
    measured = [step for step in steps if step.measured]
    if not measured or (not steps[-1].measured and measured[-1].score > 0):
        return None
    return measured[-1].label(threshold)


def _conversation(row: Mapping[str, Any], turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A training conversation: the first turn carries the question."""
    messages = [{"from": "system", "value": PRM_SYSTEM_PROMPT}]
    for index, (text, label) in enumerate(turns):
        head = f"### Question:\n{row['question']}\n\n### Solution Process:\n" if index == 0 else ""
        messages += [{"from": "human", "value": head + text}, {"from": "gpt", "value": label}]
    image = {"image": row["image"]} if row.get("image") else {}
    return {"id": -1, **image, "conversations": messages}


def prm_conversation(
    row: Mapping[str, Any], steps: Sequence[ScoredStep], *, threshold: float, early_stop: bool
) -> dict[str, Any] | None:
    """A conversation with one turn per labelled step, up to the first unmeasured one; None where none is labelled.

    early_stop: end with the first '-'.
    """
    turns: list[tuple[str, str]] = []
    for step in steps:
        label = step.label(threshold)
        if label is None:
            break
        turns.append((step.step, label))
        if early_stop and label == "-":
            break
    return _conversation(row, turns) if turns else None


def orm_conversation(row: Mapping[str, Any], steps: Sequence[ScoredStep], *, threshold: float) -> dict[str, Any] | None:
    """A conversation of one turn that judges the whole answer; None where nothing decides."""
    label = outcome_label(steps, threshold)
    response = row.get("response") or STEP_BREAK.join(step.step for step in steps)
    return _conversation(row, [(response, label)]) if label else None


@dataclass(frozen=True)
class StepPair:
    """Two answers to one question whose steps agree before `step` and whose scores differ at it.

    chosen, rejected: indices of the answers; chosen_score > rejected_score, both measured at `step`.
    """

    chosen: int
    rejected: int
    step: int
    chosen_score: float
    rejected_score: float


def step_pairs(
    responses: Sequence[Sequence[ScoredStep]], *, threshold: float = 0.0, min_gap: float = 0.0
) -> Iterator[StepPair]:
    """Preference pairs from step scores: the first step where prefixes of equal parents differ in expected accuracy.

    The whole answers are compared, so the better one must also be labelled '+' at every step: it would be odd to
    prefer an answer for its first step whose last one is wrong.

    Args:
        responses: the scored steps of each answer to one question.
        threshold: scores above it are labelled '+'.
        min_gap: scores that differ by no more than this are taken as equal (they are estimates).
    """
    sound = [bool(steps) and all(step.label(threshold) == "+" for step in steps) for steps in responses]
    for first, second in combinations(range(len(responses)), 2):
        fork = _fork(responses[first], responses[second])
        if fork is None:
            continue
        worse, better = sorted((first, second), key=lambda i: responses[i][fork].score)
        low, high = responses[worse][fork], responses[better][fork]
        if sound[better] and low.measured and high.score - low.score > min_gap:
            yield StepPair(better, worse, fork, high.score, low.score)


def _fork(first: Sequence[ScoredStep], second: Sequence[ScoredStep]) -> int | None:
    """Index of the first step whose text differs; None where one answer only goes on longer."""
    steps = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in steps if one.step != other.step), None)
