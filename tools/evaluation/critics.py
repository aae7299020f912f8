"""A critic in an evaluation: the step scores of sampled answers, new or those of an earlier evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_chat.run.bars import track
from tools.evaluation.answering import Answered, AnswerRows, answers_path, read_answers
from tools.evaluation.best_of import CriticChoice, StepScores, chosen_by, measure_best_of
from tools.evaluation.table import read_report
from tools.evaluation.ways import Way, greedy_of
from tools.scoring.critic import AnswerScorer, check_critic, critic_weights, open_critic

SETTINGS = ("max_steps", "critic_max_num")  # that decide the scores of steps, beside the critic's weights


def check_choosing(args: argparse.Namespace) -> None:
    """Raise ValueError, or FileNotFoundError, where --critic has nothing to choose from or is no critic."""
    if not args.critic:
        return
    if args.samples < 2 or args.temperature == 0:
        raise ValueError(
            f"--critic {args.critic} chooses among several answers: --samples {args.samples} --temperature "
            f"{args.temperature:g} gives one; take --samples 8 --temperature 1"
        )
    if not (args.reasoned or args.direct or args.vlmeval):
        raise ValueError(f"--critic {args.critic} chooses among answers to --reasoned, --direct or --vlmeval: give one")
    check_critic(args.critic)


def choose_ways(
    args: argparse.Namespace, ways: Sequence[Way], answered: Mapping[str, Sequence[Answered]], rows: AnswerRows
) -> dict[str, Any]:
    """What choosing by the critic of `args` is worth, by way; the rows get `step_scores` and the `chosen` place.

    Raises:
        FileNotFoundError, ValueError: as of `open_critic`.
        ImageError, RecordError: a question cannot be shown to the critic; an evaluation leaves none out.
    """
    choice = CriticChoice(args.critic, args.score_by, args.first_greedy)
    sampled = [way for way in ways if way.is_sampled]
    found, decided = {}, scored_by(args)
    for way, scores in zip(sampled, score_ways(args, sampled, answered), strict=True):
        figures = measure_best_of(choice, answered[way.name], scores, answered.get(greedy_of(way.name), ()))
        found[way.name] = figures | decided
        for one, steps in zip(answered[way.name], scores, strict=True):
            rows[way.name][one.question.key] |= {"step_scores": steps, "chosen": chosen_by(choice, one, steps)}
    return found


def score_ways(
    args: argparse.Namespace, ways: Sequence[Way], answered: Mapping[str, Sequence[Answered]]
) -> Iterator[list[StepScores]]:
    """For each way, the step scores of the answers to each question; those that --answers has are taken from there."""
    scorer = None
    for way in ways:
        known = saved_scores(args, way.name) if args.answers else {}
        found: list[StepScores] = []
        for one in track(answered[way.name], desc=f"scores, {way.name}"):
            if (steps := known.get(one.question.key)) is None:
                scorer = scorer or AnswerScorer(open_critic(args.critic, args.critic_max_num), args.max_steps)
                scored = scorer.score(one.question.text, one.question.images, one.responses)
                steps = [[step.score for step in answer] for answer in scored]
            found.append(steps)
        yield found


def scored_by(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the scores of steps."""
    return {"critic_weights": critic_weights(args.critic)} | {name: getattr(args, name) for name in SETTINGS}


def saved_scores(args: argparse.Namespace, way: str) -> dict[str, StepScores]:
    """Key of a question -> step scores of an earlier evaluation by the same critic; {} where it had another."""
    report: Path = args.answers
    then = read_report(report).get("best_of", {}).get(way, {})
    if any(then.get(name) != value for name, value in scored_by(args).items()):
        return {}
    return {key: row["step_scores"] for key, row in read_answers(answers_path(report))[way].items()}
