"""VisualPRM (arXiv 2503.10291), sampling half: answers as steps, each scored by Monte-Carlo continuation.

    python -u tools/reasoning_data_pipeline/visualprm_data_pipeline.py --checkpoint OpenGVLab/InternVL2_5-8B \\
        --prompt-path prompts.jsonl --out-dir sampled --num-mc-sequences 16 --dynamic --max-num 12

Prompts are {"image", "question", "answer"}, or what the correctness pipeline sampled: a row that has a `response`
already is scored as it is (with --num-return-sequences 1). Writes
<out-dir>/<checkpoint>/max_tiles_<max-num>/<prompt file>: image, question, answer, response and
steps_with_score: [{step, score, num_mc_correct, num_mc_total}]. The score of step i is the share of right answers among
the continuations of steps 1..i; undecided ones do not count. All steps of one level of many answers are one batch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from internvl_chat.records.rows import RecordError, SampledResponse
from tools.reasoning_data_pipeline.answers.checker import (
    AnswerChecker,
    Outcome,
    Question,
    modes_for_dataset,
    parse_answer,
)
from tools.reasoning_data_pipeline.answers.steps import STEP_BREAK, ScoredStep, StepPrefix, score_steps, split_steps
from tools.reasoning_data_pipeline.engines.protocol import Request
from tools.reasoning_data_pipeline.prompts.files import Task
from tools.reasoning_data_pipeline.sampling.arguments import sampling_parser
from tools.reasoning_data_pipeline.sampling.pipeline import Pipeline, run_pipeline
from tools.reasoning_data_pipeline.sampling.run import KEY_SEPARATOR, SamplingRun

WINDOW = 32  # prompts whose answers are scored together, level by level


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as asked: its request, and its row but for the response."""

    request: Request
    asked: SampledResponse


@dataclass(frozen=True)
class Solution:
    """One answer to a prompt."""

    prompt: AskedPrompt
    sample: int
    text: str


def sample(run: SamplingRun) -> None:
    """Answer every prompt and score the steps of its answers."""
    with AnswerChecker() as checker:
        for window in run.windows(lambda task: read_prompt(run, task), WINDOW):
            solutions = list(solve(run, window))
            scorer = StepScorer(run, checker, solutions)
            steps = [split_steps(solution.text, run.args.max_steps) for solution in solutions]
            scored = score_steps(steps, scorer.count_correct, early_stop=run.args.early_stop)
            for solution, solution_steps in zip(solutions, scored, strict=True):
                key = solution.prompt.request.key
                if not run.rejected(key):
                    run.keep(key, solution.sample, scored_row(solution, solution_steps))


def read_prompt(run: SamplingRun, task: Task) -> AskedPrompt:
    """Check a row; RecordError when it is not a prompt, or brings a response though several are to be sampled."""
    if "response" in task.row:
        if run.args.num_return_sequences > 1:
            reason = "the row has a response: score it with --num-return-sequences 1"
            raise RecordError(*task.where, f"{reason}, not {run.args.num_return_sequences}")
        asked = SampledResponse.from_row(task.row, task.where)
    else:
        asked = run.asked(task)
    return AskedPrompt(run.request(task, asked.question, asked.image), asked)


def solve(run: SamplingRun, window: Sequence[AskedPrompt]) -> Iterator[Solution]:
    """The answers that the rows brought, and sampled ones for the others."""
    open_prompts = {}
    for prompt in window:
        if "response" in run.task(prompt.request.key).row:
            yield Solution(prompt, 0, prompt.asked.response)
        else:
            open_prompts[prompt.request.key] = prompt
    for answer in run.answers(prompt.request for prompt in open_prompts.values()):
        yield Solution(open_prompts[answer.key], answer.sample, answer.text)


@dataclass(frozen=True)
class StepScorer:
    """Continues the step prefixes of some solutions and counts the right answers."""

    run: SamplingRun
    checker: AnswerChecker
    solutions: Sequence[Solution]

    def count_correct(self, prefixes: list[StepPrefix]) -> list[tuple[int, int]]:
        """(right, judged) continuations of each prefix; (0, 0) where its prompt was given up."""
        by_key = {self._key(prefix): prefix for prefix in prefixes}
        ends = [(answer.key, answer.text) for answer in self.run.answers(self._requests(by_key))]
        verdicts = self.checker.check_many(self._question(by_key[key], text) for key, text in ends)
        right: Counter[str] = Counter()
        judged: Counter[str] = Counter()
        for (key, _), verdict in zip(ends, verdicts, strict=True):
            right[key] += verdict.outcome == Outcome.CORRECT
            judged[key] += verdict.outcome != Outcome.UNDECIDED
        return [(right[key], judged[key]) for key in by_key]

    def _key(self, prefix: StepPrefix) -> str:
        solution = self.solutions[prefix.response]
        return KEY_SEPARATOR.join((solution.prompt.request.key, str(solution.sample), str(prefix.step)))

    def _requests(self, prefixes: dict[str, StepPrefix]) -> Iterator[Request]:
        for key, prefix in prefixes.items():
            asked = self.solutions[prefix.response].prompt.request
            if not self.run.rejected(asked.key):
                seeds = self.run.seeds(key, range(self.run.args.num_mc_sequences))
                yield replace(asked, key=key, seeds=seeds, prefix=self._begun(prefix))

    def _begun(self, prefix: StepPrefix) -> str:
        """The prefix, and the break behind it where the answer goes on: one token often holds a full stop and both."""
        goes_on = len(prefix.text) < len(self.solutions[prefix.response].text.strip())
        return prefix.text + STEP_BREAK if goes_on else prefix.text

    def _question(self, prefix: StepPrefix, continuation: str) -> Question:
        """What the checker is asked about one continuation."""
        asked = self.solutions[prefix.response].prompt.asked
        parsed = parse_answer(self._begun(prefix) + continuation, asked.prompt_version)
        return Question(parsed, asked.answer, modes_for_dataset(self.run.dataset))


def scored_row(solution: Solution, steps: Sequence[ScoredStep]) -> dict[str, Any]:
    """The output row of one answer."""
    row = replace(solution.prompt.asked, response=solution.text).to_row()
    return {**row, "steps_with_score": [step.to_row() for step in steps]}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = sampling_parser(__doc__, num_samples=4, version="en")
    group = parser.add_argument_group("steps")
    group.add_argument("--num-mc-sequences", type=int, default=16, help="continuations per step; default 16")
    group.add_argument("--max-steps", type=int, default=12, help="join the steps of an answer to so many; default 12")
    group.add_argument(
        "--early-stop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="do not measure the steps behind one that no continuation saved",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = build_parser().parse_args(arguments)
    if args.num_mc_sequences < 1 or args.max_steps < 1:
        raise ValueError(f"--num-mc-sequences {args.num_mc_sequences}, --max-steps {args.max_steps}: at least 1 each")
    own = {name: getattr(args, name) for name in ("num_mc_sequences", "max_steps", "early_stop")}
    samples = max(args.num_return_sequences, args.num_mc_sequences)
    run_pipeline(Pipeline("visualprm", sample, True, samples, own), args)


if __name__ == "__main__":
    main()
