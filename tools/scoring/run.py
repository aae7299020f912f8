"""Files of answers through a critic: each a restartable run, shared by the ranks of a job."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_chat.critic.answers import answer_score
from internvl_chat.data.images import ImageError
from internvl_chat.records.rows import RecordError
from internvl_chat.run.bars import track
from internvl_chat.run.process import Process
from tools.reasoning_data_pipeline.answers.steps import ScoredStep
from tools.reasoning_data_pipeline.files.store import RunSummary, SampleStore, read_origin
from tools.reasoning_data_pipeline.prompts.files import ImageRoots
from tools.scoring.answer_file import AnswerFile, SampledAnswers
from tools.scoring.critic import AnswerScorer, critic_weights

logger = logging.getLogger(__name__)

WITHOUT_TEXT = "answer without text"
SETTINGS = ("score_by", "max_steps", "max_num")  # that decide the rows, beside the critic


@dataclass(frozen=True)
class ScoredFile:
    """A file of answers and where its scored rows go."""

    answers: Path
    output: Path


def score_file(
    job: ScoredFile, args: argparse.Namespace, open_scorer: Callable[[], AnswerScorer], worker: Process
) -> RunSummary | None:
    """Score this rank's share of a file, and merge it where no other rank has work left; None where one has.

    Raises:
        ValueError: a resume with other settings, or a file without rows.
    """
    answers = AnswerFile(job.answers)
    if not answers.keys:
        raise ValueError(f"{job.answers}: no rows; a file of answers has one a line")
    origin = read_origin(job.answers) or {"prompt_path": str(job.answers.absolute()), "image_root": None}
    if args.image_root:
        origin["image_root"] = str(args.image_root.absolute())
    with SampleStore(
        job.output,
        keys=answers.keys,
        num_samples=answers.sizes,
        parameters={"critic_weights": critic_weights(args.critic)} | {name: getattr(args, name) for name in SETTINGS},
        origin=origin,
        worker=worker,
        overwrite=args.overwrite,
    ) as store:
        root = Path(origin["image_root"]) if origin.get("image_root") else None
        images = ImageRoots(Path(origin["prompt_path"]).parent, root, args.follow_symlinks)
        for key, _ in track(store.pending(), desc=f"{job.output.name} rank {worker.rank}", unit="question"):
            score_group(key, answers, store, images, open_scorer(), args.score_by)
        return store.finish()


def score_group(
    key: str, answers: AnswerFile, store: SampleStore, images: ImageRoots, scorer: AnswerScorer, by: str
) -> None:
    """Score the answers to one question and keep their rows; what cannot be read is rejected with its reason."""
    where, group = answers.where(key), answers.group(key)
    try:
        if group.reason:
            raise RecordError(*where, group.reason)
        rows = answers.answers(key)
        prompt = rows[0].prompt
        paths = images.resolve(prompt.image, where)
        scored = scorer.score(prompt.question, paths, [text for row in rows for text in row.responses])
    except (RecordError, ImageError) as error:
        reason = f"{getattr(error, 'reason', error)}{told_size(group.num_answers)}"
        store.reject(key, file=where.file, line=where.line, reason=reason)
        logger.warning("%s:%d rejected: %s", where.file, where.line, reason)
        return
    store.append(key, {at: row for at, row in enumerate(scored_rows(rows, scored, by)) if row})
    for at, steps in enumerate(scored):
        if not steps:
            store.skip(key, at, WITHOUT_TEXT)


def told_size(num_answers: int) -> str:
    """How many answers a reason is about, where there are several."""
    return f" (and with it {num_answers} answers from this line on)" if num_answers > 1 else ""


def scored_rows(rows: list[SampledAnswers], scored: list[list[ScoredStep]], by: str) -> Iterator[dict[str, Any]]:
    """A row for each answer, {} for one without text: its fields, `steps_with_score` and `score`."""
    texts = ((row.fields, text) for row in rows for text in row.responses)
    for (fields, text), steps in zip(texts, scored, strict=True):
        score = {"score": answer_score([step.score for step in steps], by)} if steps else {}
        told = {**fields, "response": text, "steps_with_score": [step.to_row() for step in steps], **score}
        yield told if steps else {}
