"""DropoutNTP (arXiv 2411.10442, 3.2): the start of a good answer, continued without its image, is a rejected one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from internvl_chat.records.rows import PreferencePair, Prompt, RecordError, is_blank
from tools.reasoning_data_pipeline.answers.steps import answer_prefix
from tools.reasoning_data_pipeline.engines.protocol import Request
from tools.reasoning_data_pipeline.prompts.files import Task
from tools.reasoning_data_pipeline.prompts.wording import split_placeholders, without_images
from tools.reasoning_data_pipeline.sampling.pipeline import KEY_SEPARATOR, SamplingRun

WINDOW = 4096  # prompts whose chosen answers are generated before their continuations; the engine runs dry after each


@dataclass(frozen=True)
class Positive:
    """A prompt and its chosen answer, None while it is still to be generated.

    `shown` is its request with the image.
    """

    task: Task
    shown: Request
    chosen: str | None


def sample(run: SamplingRun) -> None:
    """Continue every chosen answer without its image."""
    for window in run.windows(lambda task: read_positive(run, task), WINDOW):
        positives = {positive.task.key: positive for positive in window}
        generate_chosen(run, positives)
        for answer in run.answers(dropped_requests(run, positives)):
            keep_continuation(run, positives[answer.key], answer.sample, answer.text)


def read_positive(run: SamplingRun, task: Task) -> Positive:
    """Check a row; RecordError when a field is of a wrong type, or its images are not there or not in its question."""
    if task.row.get("chosen") is not None:
        pair = PreferencePair.from_row(task.row, task.where, allow_no_rejected=True)
        if pair.video is not None and run.args.load_image:
            raise RecordError(*task.where, "--load-image: the engine reads no video; leave it out")
        if pair.history:
            raise RecordError(*task.where, "field 'history': the engine is asked one question without earlier turns")
        split_placeholders(pair.question, len(pair.image), task.where)
        # An answer that is there was given to the question as it stands.
        return Positive(task, run.request(task, pair.question, pair.image), pair.chosen)
    prompt = Prompt.from_row(task.row, task.where, allow_no_answer=True)
    question = run.ask(task, prompt.question, len(prompt.image))
    return Positive(task, run.request(task, question, prompt.image), None)


def generate_chosen(run: SamplingRun, positives: dict[str, Positive]) -> None:
    """Fill in the chosen answers that are absent, generated with the image."""
    missing = [positive for positive in positives.values() if positive.chosen is None]
    requests = []
    for positive in missing:
        key = f"{positive.task.key}{KEY_SEPARATOR}chosen"
        requests.append(replace(positive.shown, key=key, **run.seeds(key, [0])))
    for answer in run.answers(requests):
        key = answer.key.partition(KEY_SEPARATOR)[0]
        positives[key] = replace(positives[key], chosen=answer.text)


def dropped_requests(run: SamplingRun, positives: dict[str, Positive]) -> Iterator[Request]:
    """Requests for the continuations: the start of the chosen answer, and no image unless --load-image."""
    for positive in positives.values():
        if positive.chosen is None:
            continue  # rejected when it was to be generated
        request = replace(positive.shown, prefix=answer_prefix(positive.chosen, run.args.start_ratio))
        if not run.args.load_image:
            request = replace(request, question=without_images(request.question), images=())
        yield request


def keep_continuation(run: SamplingRun, positive: Positive, sample_index: int, text: str) -> None:
    """Write the pair, unless its two answers are the same or one is empty."""
    chosen = positive.chosen or ""
    rejected = answer_prefix(chosen, run.args.start_ratio) + text
    reason = None
    if is_blank(chosen) or is_blank(rejected):
        reason = "empty answer"
    elif rejected.strip() == chosen.strip():
        reason = "equal to chosen"
    if reason:
        run.skip(positive.task.key, sample_index, reason)
    else:
        run.keep(positive.task.key, sample_index, pair_row(positive, rejected))


def pair_row(positive: Positive, rejected: str) -> dict[str, Any]:
    """The output row: the prompt's fields, the question as asked, both answers."""
    row = dict(positive.task.row)
    if row.get("rejected") is not None:
        row["rejected_orig"] = row["rejected"]
    if positive.shown.question != row["question"] and row.get("chosen") is None:
        row |= {"question": positive.shown.question, "question_orig": row["question"]}
    return {**row, "chosen": positive.chosen, "rejected": rejected}
