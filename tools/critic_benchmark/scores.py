"""Scores of the steps of a benchmark: made by a critic, row after row, kept, and read from files of others.

A line of ours is {"row": key, "by": who scored, "scores": [0.98, ..]}. A scoring that was stopped goes on where it was;
what another critic scored is left where it is. A line of others' files says `scores` (p of right, 0..1), or `pred` (1
for right, 0 or -1 for wrong), or `steps_with_score` (Monte-Carlo estimates, or what a released critic returns). It is
about the row that its `row` or its number (`id` or `index`, from 0) names, else about the one at its place in the file.
null, -2 and a step that was not measured are no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from internvl_chat.data.images import ImageError, load_image
from internvl_chat.model.critic_turns import STEPS_HEAD
from internvl_chat.records.durable import json_line, open_for_append, whole_lines
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import RecordError, Source, parse_row, shown
from internvl_chat.run.bars import track
from tools.critic_benchmark.rows import ProcessRow
from tools.scoring.critic import StepJudge

NUMBERS = ("id", "index", "idx")
NO_ANSWER = -2  # what evaluators of others write where a model gave no judgement

StepScores = dict[str, list[float | None]]
"""Key of a row -> a score of each of its steps, None where there is none."""


def score_rows(
    rows: Sequence[ProcessRow], open_critic: Callable[[], StepJudge], *, by: str, kept: Path | None, at_once: int
) -> StepScores:
    """Scores of all rows: those that are kept, the others from a critic, which is opened only where one is missing.

    Args:
        rows: of the benchmark.
        open_critic: loads it.
        by: names the critic and how it was asked; what another scored is not taken.
        kept: file of scores, which grows; None keeps nothing.
        at_once: most answers to one question in one forward.

    Raises:
        BlockingIOError: another process writes the file.
    """
    scores = read_kept(kept, by) if kept else {}
    todo = [row for row in rows if row.key not in scores]
    if not todo:
        return scores
    critic = open_critic()
    file = open_for_append(kept) if kept else None
    try:
        for group in track(groups_of(todo, at_once), desc="questions scored"):
            found = critic.score(group[0].question, pictures_of(group[0]), [row.steps for row in group])
            for row, values in zip(group, found, strict=True):
                scores[row.key] = list(values)
                if file:
                    file.write(json_line({"row": row.key, "by": by, "scores": values}))
            if file:
                file.flush()
    finally:
        if file:
            file.close()
    return scores


def pictures_of(row: ProcessRow) -> list[Image.Image]:
    """The pictures of a row's question; RecordError where one is broken."""
    try:
        return [load_image(path) for path in row.images]
    except ImageError as error:
        raise RecordError(*row.where, str(error), error.fault) from error


def groups_of(rows: Iterable[ProcessRow], most: int) -> list[list[ProcessRow]]:
    """Rows that share question and pictures, at most `most` together."""
    asked: dict[tuple[str, tuple[str, ...]], list[ProcessRow]] = {}
    for row in rows:
        asked.setdefault((row.question, row.images), []).append(row)
    return [group[start : start + most] for group in asked.values() for start in range(0, len(group), most)]


def read_kept(path: Path, by: str) -> StepScores:
    """What `by` scored before; {} where there is no file."""
    lines = (line for _, line in whole_lines(path)) if path.is_file() else ()
    return {line["row"]: line["scores"] for line in lines if isinstance(line, dict) and line.get("by") == by}


def read_scores(path: Path, rows: Sequence[ProcessRow], total: int) -> StepScores:
    """Scores of a file, ours or another's.

    Args:
        path: JSONL.
        rows: of the benchmark.
        total: lines of the benchmark, unusable ones included.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: a line is no list of scores, or not as long as its row has steps.
        ValueError: lines name no row, and are not as many as rows.
    """
    lines = JsonlFile(path)
    keys = {row.key: row for row in rows}
    numbers = {row.number: row for row in rows}
    found: StepScores = {}
    for place in range(len(lines)):
        line, line_no = lines[place]
        where = Source(str(path), line_no)
        scored = parse_row(line, *where)
        number = next((scored[name] for name in NUMBERS if type(scored.get(name)) is int), None)
        if "row" not in scored and number is None and len(lines) != total:
            told = "give 'id', the number of the row from 0"
            raise ValueError(f"{path}: {len(lines)} lines of scores for {total} rows, and no row is named: {told}")
        row = keys.get(scored["row"]) if "row" in scored else numbers.get(place if number is None else number)
        if row is not None:
            found[row.key] = _checked(scored, row, where)
    return found


def _checked(scored: Mapping[str, Any], row: ProcessRow, where: Source) -> list[float | None]:
    """The scores of a line; RecordError where they do not fit its row."""
    entries, texts = _entries(scored, where)
    if len(entries) != len(row.steps):
        raise RecordError(*where, f"{len(entries)} scores for the {len(row.steps)} steps of line {row.where.line}")
    for number, (text, step) in enumerate(zip(texts, row.steps, strict=False), 1):
        if text.split() != step.split():
            said = f"step {number} is {shown(text)} here and {shown(step)} in {row.where.file}:{row.where.line}"
            raise RecordError(*where, f"{said}: give the row's number as 'id'")
    return entries


def _entries(scored: Mapping[str, Any], where: Source) -> tuple[list[float | None], list[str]]:
    """The scores of a line, and the texts of their steps where it has them."""
    for name, read in (("scores", _share), ("pred", _verdict)):
        if isinstance(scored.get(name), list) and scored[name]:
            return [read(value, where) for value in scored[name]], []
    steps = scored.get("steps_with_score")
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise RecordError(*where, f"no scores, pred or steps_with_score: the line has {shown(sorted(scored), 200)}")
    texts = [step["step"].rpartition(STEPS_HEAD)[2] for step in steps if isinstance(step.get("step"), str)]
    values = [None if step.get("num_mc_total") == 0 else _share(step.get("score"), where) for step in steps]
    return values, texts if len(texts) == len(steps) else []


def _share(value: Any, where: Source) -> float | None:
    """A probability, as scores of steps are; None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        cure = "the probability that the step is right: apply sigmoid or softmax to logits first"
        raise RecordError(*where, f"a score must be in 0..1, not {shown(value)}; {cure}")
    return float(value)


def _verdict(value: Any, where: Source) -> float | None:
    """A judgement as a score: 1 for right, 0 for wrong."""
    if value is None or value == NO_ANSWER:
        return None
    if value not in (1, 0, -1):
        raise RecordError(*where, f"a 'pred' must be 1 for right, 0 or -1 for wrong, not {shown(value)}")
    return float(value == 1)
