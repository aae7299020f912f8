"""Kinds of pair: all that the product's pipeline makes of a start's own answers, or those of them that fit.

A kind is a function from rows, in the pipeline's order, and the steps of every question to the rows that are trained
on. Which steps are right is known here because the questions were made; an arm that uses it says what such pairs
would be worth, not what a user can have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from benchmarks.study.files import Row
from benchmarks.study.measures import mean
from benchmarks.study_pretrained.problems import Step, judge_steps, read_steps, solution_of
from tools.reasoning_data_pipeline.prompts.wording import unasked

Steps = Mapping[str, tuple[Step, ...]]


def own(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """All."""
    return list(rows)


def one_a_question(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """The first of each question."""
    return list({row["question"]: row for row in reversed(rows)}.values())[::-1]


def right_steps(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """Those whose chosen answer has the steps of the solution."""
    return [row for row in rows if judge_steps(row["chosen"], steps[unasked(row["question"])[0]])[1]]


def one_slip(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """Those whose answers have as many lines, of which one differs before the last."""
    return [row for row in rows if _slips(row["chosen"], row["rejected"]) == 1]


def _slips(chosen: str, rejected: str) -> int:
    """Lines of arithmetic that differ; -1 for other numbers of lines."""
    lines = [answer.splitlines()[:-1] for answer in (chosen, rejected)]
    return sum(one != other for one, other in zip(*lines, strict=True)) if len(lines[0]) == len(lines[1]) else -1


def swapped(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """Chosen and rejected exchanged."""
    return [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


def coin(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """Every pair exchanged or not by a coin: nothing can be learned, so what changes is noise."""
    rng = random.Random("coin")
    return [swapped([row], steps)[0] if rng.random() < 1 / 2 else row for row in rows]


def gold(rows: Sequence[Row], steps: Steps) -> list[Row]:
    """Own pairs with the worked solution as chosen."""
    return [{**row, "chosen": solution_of(steps[unasked(row["question"])[0]])} for row in rows]


def traits(rows: Sequence[Row], steps: Steps) -> dict[str, float]:
    """What the pairs teach, in percent.

    Returns:
        `chosen_right`: of chosen answers, with the steps of the solution; `chosen_true`: all of whose lines are true;
        `rejected_true_lines`: of the lines of rejected answers, true ones, which training makes less likely too.
    """
    judged = [judge_steps(row["chosen"], steps[unasked(row["question"])[0]]) for row in rows]
    lines = [step.is_true for row in rows for step in read_steps(row["rejected"])]
    shares = {"chosen_true": [true for true, _ in judged], "chosen_right": [right for _, right in judged]}
    return {name: round(100 * mean(found), 1) for name, found in {**shares, "rejected_true_lines": lines}.items()}


KINDS: dict[str, Callable[[Sequence[Row], Steps], list[Row]]] = {
    "own": own,
    "one a question": one_a_question,
    "right steps": right_steps,
    "one slip": one_slip,
    "swapped": swapped,
    "coin": coin,
    "gold": gold,
}
