"""What a critic of steps (a process reward model) is asked: an answer as steps, how they are laid out, the two marks.

`turns` is the format of VisualPRM (arXiv 2503.10291): a system message, the question with the first step in the first
turn, one step in each later turn, and `+` or `-` as the answer to each. `answer` leaves question and answer as a model
was asked and gave it, and judges each step by what follows its last token, `+` or `-`; neither is written anywhere.
Data, training, scoring and saved checkpoints share this; a critic that is asked otherwise is another critic.

    turns = step_turns(question, split_steps(response, 12))
"""

import math
from collections.abc import Sequence

STEP_BREAK = "\n\n"
MAX_STEPS = 12  # of an answer that is judged, as published
RIGHT, WRONG = MARKS = ("+", "-")
TURNS, ANSWER = LAYOUTS = ("turns", "answer")
RELEASED_CRITIC = "InternVLRewardModel"  # architecture of VisualPRM-8B
QUESTION_HEAD, STEPS_HEAD = "### Question:\n", "\n\n### Solution Process:\n"  # an image goes between the two, in front

CRITIC_SYSTEM_MESSAGE = """\
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


def split_steps(response: str, max_steps: int | None = None) -> list[str]:
    """Split at blank lines; neighbours are joined in equal groups so that at most `max_steps` remain (None: all).

    `"\\n\\n".join(split_steps(r, n)) == r` for every response.

    Raises:
        ValueError: `max_steps` is below 1.
    """
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, not {max_steps}")
    pieces = response.split(STEP_BREAK)
    size = 1 if max_steps is None else math.ceil(len(pieces) / max_steps)
    return [STEP_BREAK.join(pieces[start : start + size]) for start in range(0, len(pieces), size)]


def text_steps(response: str, max_steps: int | None = None) -> list[str]:
    """The steps that a critic is shown: as `split_steps`, without those that have no text; [] of an empty response."""
    return [step for step in split_steps(response.strip(), max_steps) if step.strip()]


def step_turns(question: str, steps: Sequence[str]) -> list[str]:
    """The user's turns that put these steps: the question stands in front of the first one."""
    heads = [f"{QUESTION_HEAD}{question}{STEPS_HEAD}", *[""] * (len(steps) - 1)]
    return [head + step for head, step in zip(heads, steps, strict=True)]


def answer_pieces(steps: Sequence[str]) -> list[str]:
    """The texts that give the answer again when joined, each up to the end of a step."""
    first, *later = steps
    return [first, *(STEP_BREAK + step for step in later)]
