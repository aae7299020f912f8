"""From questions to judged answers: an engine answers, the checks of the data pipelines judge, the answers vote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_chat.data.images import tile_share
from internvl_chat.records.durable import json_line, write_atomically
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import parse_row, shown
from internvl_chat.run.bars import track
from tools.evaluation.choosing import NO_ANSWER
from tools.evaluation.questions import AskedQuestion
from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, Outcome, Verdict, parse_answer
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import Completion, Engine, EngineOptions, Failure, Request
from tools.reasoning_data_pipeline.files.store import sample_seed

AnswerRows = dict[str, dict[str, dict[str, Any]]]
"""Way of asking -> key of the question -> its row, see `answer_rows`."""


@dataclass(frozen=True)
class Vote:
    """What most of the answers to a question say.

    Attributes:
        text: the answer; None where no response gave one.
        outcome: whether it is right; an undecided answer is not.
        votes: responses that gave it.
        is_tie: whether another answer had as many.
        classes: (N,) a number for each response, equal where the answers are; NO_ANSWER where it gives none.
    """

    text: str | None
    outcome: Outcome
    votes: int
    is_tie: bool
    classes: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Answered:
    """A question with its responses and what they are worth.

    Attributes:
        question: as asked.
        responses: N >= 1 texts.
        outcomes: one per response.
        majority: their vote.
    """

    question: AskedQuestion
    responses: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    majority: Vote

    @property
    def share(self) -> float:
        """Share of the responses that are right, 0 to 1."""
        return self.outcomes.count(Outcome.CORRECT) / len(self.outcomes)


def answer_questions(
    questions: Sequence[AskedQuestion], engine: str, options: EngineOptions, *, samples: int, seed: int, max_tiles: int
) -> list[list[str]]:
    """`samples` responses to each question, in its order.

    Args:
        questions: to be answered.
        engine: one of `engines.ENGINES`.
        options: checkpoint and how tokens are drawn.
        samples: responses per question, >= 1.
        seed: with a question's key and the sample's index it decides a sample, whatever the checkpoint.
        max_tiles: tile limit of the pictures of a question together.

    Raises:
        ValueError: the engine could not answer one; an evaluation leaves none out.
    """
    answers = [[""] * samples for _ in questions]
    opened = open_engine(engine, options)
    try:
        found = completions(opened, questions, samples=samples, seed=seed, max_tiles=max_tiles)
        for place, completion in track(found, desc="answers", total=len(questions) * samples):
            answers[place][completion.sample] = completion.text.strip()
    finally:
        opened.close()
    return answers


def completions(
    engine: Engine, questions: Sequence[AskedQuestion], *, samples: int, seed: int, max_tiles: int
) -> Iterator[tuple[int, Completion]]:
    """What an open engine answers, as it comes: (which of the questions, one of its samples).

    The arguments and errors are those of `answer_questions`.
    """
    requests = (
        request_of(question, str(place), samples=samples, seed=seed, max_tiles=max_tiles)
        for place, question in enumerate(questions)
    )
    for result in engine.generate(requests):
        if isinstance(result, Failure):
            raise ValueError(f"question {shown(questions[int(result.key)].text)} has no answer: {result.reason}")
        yield int(result.key), result


def request_of(question: AskedQuestion, key: str, *, samples: int, seed: int, max_tiles: int) -> Request:
    """A question as engines take it, under a key."""
    return Request(
        key,
        question.text,
        {sample: sample_seed(seed, question.key, sample) for sample in range(samples)},
        question.images,
        tile_share(max_tiles, len(question.images)),
        base_seed=sample_seed(seed, question.key),
    )


def judge(questions: Sequence[AskedQuestion], responses: Iterable[Sequence[str]]) -> Iterator[Answered]:
    """Each question with its responses, judged."""
    with AnswerChecker() as checker:
        for question, texts in zip(questions, responses, strict=True):
            verdicts = [_judge(checker, question, text) for text in texts]
            outcomes = tuple(verdict.outcome for verdict in verdicts)
            yield Answered(question, tuple(texts), outcomes, vote(checker, question, verdicts))


def _judge(checker: AnswerChecker, question: AskedQuestion, response: str) -> Verdict:
    final = response if question.version is None else parse_answer(response, question.version)
    return checker.check(final, question.gold, question.modes, options=question.options)


def vote(checker: AnswerChecker, question: AskedQuestion, verdicts: Sequence[Verdict]) -> Vote:
    """The answer that most responses give.

    Answers that the checks find equal (0.5 and 1/2, B and (b)) vote together, responses without an answer do not vote.
    Of answers with as many votes the one sampled first wins: samples are drawn independently, so that is a fair coin,
    and the same in every repeat.
    """
    members: dict[str, list[int]] = {}
    classes = [NO_ANSWER] * len(verdicts)
    for at, predicted in enumerate(verdict.predicted for verdict in verdicts):
        if predicted is not None:
            same = next((text for text in members if _agree(checker, predicted, text, question)), predicted)
            members.setdefault(same, []).append(at)
            classes[at] = list(members).index(same)
    if not members:
        return Vote(None, Outcome.FORMAT_ERROR, 0, False, tuple(classes))
    sizes = [len(places) for places in members.values()]
    text, places = max(members.items(), key=lambda item: len(item[1]))  # the first of the largest
    return Vote(text, verdicts[places[0]].outcome, len(places), sizes.count(len(places)) > 1, tuple(classes))


def _agree(checker: AnswerChecker, one: str, other: str, question: AskedQuestion) -> bool:
    if one == other:
        return True
    return checker.check(one, other, question.modes, options=question.options).outcome is Outcome.CORRECT


def answer_rows(way: str, answered: Iterable[Answered]) -> dict[str, dict[str, Any]]:
    """Key -> everything about one question, as JSON values."""
    return {one.question.key: _row(way, one) for one in answered}


def _row(way: str, answered: Answered) -> dict[str, Any]:
    question, majority = answered.question, answered.majority
    return {
        "way": way,
        "key": question.key,
        "images": question.images,
        "question": question.text,
        "answer": question.prompt.answer,
        "responses": answered.responses,
        "outcomes": answered.outcomes,
        "majority": {"text": majority.text, "outcome": majority.outcome, "tie": majority.is_tie},
    }


def with_earlier(answers: AnswerRows, before: AnswerRows) -> AnswerRows:
    """The rows with what an earlier evaluation had for the same questions, under `before`."""
    return {
        way: {
            key: row | {"before": {name: before[way][key][name] for name in ("responses", "outcomes")}}
            if key in before.get(way, {})
            else row
            for key, row in rows.items()
        }
        for way, rows in answers.items()
    }


def answers_path(out: Path) -> Path:
    """Where the answers of an evaluation stand: x.answers.jsonl beside x.json."""
    return out.with_suffix(".answers.jsonl")


def write_answers(path: Path, answers: AnswerRows) -> None:
    """Write the rows of all ways, one JSON line each."""
    write_atomically(path, (json_line(row) for rows in answers.values() for row in rows.values()))


def read_answers(path: Path) -> AnswerRows:
    """What `write_answers` wrote; {} where there is no such file."""
    found: AnswerRows = {}
    if path.is_file():
        lines = JsonlFile(path)
        for line, line_no in (lines[index] for index in range(len(lines))):
            row = parse_row(line, str(path), line_no)
            found.setdefault(row["way"], {})[row["key"]] = row
    return found
