"""VisualPRM (arXiv 2503.10291), sampling half: answers as steps, each scored by Monte-Carlo continuation.

The score of step i is the share of right answers among the continuations of steps 1..i; undecided ones do not count.
All steps of one level of many answers are one batch.
"""

from __future__ import annotations

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
from tools.reasoning_data_pipeline.answers.judging import options_of
from tools.reasoning_data_pipeline.answers.steps import STEP_BREAK, ScoredStep, StepPrefix, score_steps, split_steps
from tools.reasoning_data_pipeline.engines.protocol import Request
from tools.reasoning_data_pipeline.prompts.files import Task
from tools.reasoning_data_pipeline.sampling.pipeline import KEY_SEPARATOR, SamplingRun

WINDOW = 32  # prompts whose answers are scored together, level by level


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as asked: its request, and its row but for the response."""

    request: Request
    asked: SampledResponse


@dataclass(frozen=True)
class SampledAnswer:
    """One answer to a prompt."""

    prompt: AskedPrompt
    sample: int
    text: str


def sample(run: SamplingRun) -> None:
    """Answer every prompt and score the steps of its answers."""
    with AnswerChecker() as checker:
        for window in run.windows(lambda task: read_prompt(run, task), WINDOW):
            answers = list(answer_all(run, window))
            scorer = StepScorer(run, checker, answers)
            steps = [split_steps(answer.text, run.args.max_steps) for answer in answers]
            scored = score_steps(steps, scorer.count_correct, early_stop=run.args.early_stop)
            for answer, answer_steps in zip(answers, scored, strict=True):
                key = answer.prompt.request.key
                if not run.rejected(key):
                    run.keep(key, answer.sample, scored_row(answer, answer_steps))


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


def answer_all(run: SamplingRun, window: Sequence[AskedPrompt]) -> Iterator[SampledAnswer]:
    """The answers that the rows brought, and sampled ones for the others."""
    open_prompts = {}
    for prompt in window:
        if "response" in run.task(prompt.request.key).row:
            yield SampledAnswer(prompt, 0, prompt.asked.response)
        else:
            open_prompts[prompt.request.key] = prompt
    for answer in run.answers(prompt.request for prompt in open_prompts.values()):
        yield SampledAnswer(open_prompts[answer.key], answer.sample, answer.text)


@dataclass(frozen=True)
class StepScorer:
    """Continues the step prefixes of some answers and counts the right answers."""

    run: SamplingRun
    checker: AnswerChecker
    answers: Sequence[SampledAnswer]

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
        answer = self.answers[prefix.response]
        return KEY_SEPARATOR.join((answer.prompt.request.key, str(answer.sample), str(prefix.step)))

    def _requests(self, prefixes: dict[str, StepPrefix]) -> Iterator[Request]:
        for key, prefix in prefixes.items():
            asked = self.answers[prefix.response].prompt.request
            if not self.run.rejected(asked.key):
                seeds = self.run.seeds(key, range(self.run.args.num_mc_sequences))
                yield replace(asked, key=key, prefix=self._begun(prefix), **seeds)

    def _begun(self, prefix: StepPrefix) -> str:
        """The prefix, and the break behind it where the answer goes on: one token often holds a full stop and both."""
        goes_on = len(prefix.text) < len(self.answers[prefix.response].text.strip())
        return prefix.text + STEP_BREAK if goes_on else prefix.text

    def _question(self, prefix: StepPrefix, continuation: str) -> Question:
        """What the checker is asked about one continuation."""
        asked = self.answers[prefix.response].prompt.asked
        parsed = parse_answer(self._begun(prefix) + continuation, asked.prompt_version)
        return Question(parsed, asked.answer, modes_for_dataset(self.run.dataset), options_of(asked))


def scored_row(answer: SampledAnswer, steps: Sequence[ScoredStep]) -> dict[str, Any]:
    """The output row of one answer."""
    row = replace(answer.prompt.asked, response=answer.text).to_row()
    return {**row, "steps_with_score": [step.to_row() for step in steps]}
