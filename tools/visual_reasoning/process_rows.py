"""Answers of the small world with the truth about each of their steps, as rows of VisualProcessBench.

The generator knows the right steps of every question, so a critic, and the Monte-Carlo estimates that it is trained on,
can be measured against the truth (`tools/evaluate_critic.py`), which real data have only from people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from internvl_chat.model.critic_turns import split_steps
from internvl_chat.records.rows import RecordError, Source, is_blank, shown
from tools.visual_reasoning.steps import judge_steps

CARELESS, CAREFUL = "the generator, careless", "the generator"


def process_rows(row: Mapping[str, Any], where: Source, policy: str) -> Iterator[dict[str, Any]]:
    """The judged answers of a row of the world.

    Args:
        row: an answer to a question (`response`, or `steps_with_score`) and the right steps as `right_response`; or a
            pair, whose chosen answer has the right steps.
        where: for the error.
        policy: who answered; a pair's answers are the generator's.

    Yields:
        Rows as of `tools.critic_benchmark.rows`; `steps_with_score` stays where there is one.

    Raises:
        RecordError: the row has no right steps, or no answer.
    """
    if isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
        for answer, name in ((row["chosen"], CAREFUL), (row["rejected"], CARELESS)):
            yield _judged(row, split_steps(answer), row["chosen"], name)
        return
    solution = row.get("right_response")
    if not isinstance(solution, str):
        told = "give rows made from the world's own prompts, which the samplers keep"
        raise RecordError(*where, f"field 'right_response' must be the right steps, not {shown(solution)}: {told}")
    measured = [step for step in row.get("steps_with_score") or () if not is_blank(step["step"])]
    if measured:
        judged = _judged(row, [step["step"] for step in measured], solution, policy)
        yield {**judged, "steps_with_score": measured}
    elif isinstance(row.get("response"), str):
        yield _judged(row, split_steps(row["response"]), solution, policy)
    else:
        raise RecordError(*where, f"no answer: 'response' is {shown(row.get('response'))}")


def _judged(row: Mapping[str, Any], steps: Sequence[str], solution: str, policy: str) -> dict[str, Any]:
    """A row of the benchmark; steps without text are none."""
    told = [step for step in steps if not is_blank(step)]
    labels = [1 if all(judge_steps(step, solution)) else -1 for step in told]
    return {
        "image": row.get("image"),
        "question": row["question"],
        "answer": row.get("answer"),
        "response": {"steps": told, "process_correctness": labels},
        "policy_model": policy,
        "data_source": row.get("task"),
    }
