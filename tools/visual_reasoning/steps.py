"""Which steps of an answer are right: in the small world that is known, for critics and for what right answers hide.

There is one right way to each answer (`tasks.TASKS`), and rows carry it: `right_response` of prompts, `chosen` of the
generator's pairs. So a step is right where it is one of that way's, word for word.

    judge_steps("red three.\n\nFinal answer: three", "red two.\n\nyes: two.\n\nFinal answer: two")
    # [False, False]
"""

from __future__ import annotations

from internvl_chat.model.critic_turns import text_steps


def steps_of(response: str) -> list[str]:
    """The steps of a response, which stand apart by blank lines; the final line is the last of them."""
    return [step.strip() for step in text_steps(response)]


def judge_steps(response: str, solution: str) -> list[bool]:
    """For each of the response's steps, the final line among them, whether it is a step of the solution."""
    right = set(steps_of(solution))
    return [step in right for step in steps_of(response)]


def has_right_steps(response: str, solution: str) -> bool:
    """Whether the response takes the solution's steps, all of them and no others, in their order."""
    return steps_of(response) == steps_of(solution)
