"""The ways of asking that a command line names: their questions, and the answers of a checkpoint to them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.evaluation.answering import AnswerRows, answer_questions, answers_path, read_answers
from tools.evaluation.questions import AskedQuestion, Words, as_vlmevalkit, direct, read_questions, reasoned
from tools.evaluation.table import read_report
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, SamplingSettings
from tools.reasoning_data_pipeline.engines.server_arguments import server_options
from tools.reasoning_data_pipeline.files.store import describe_differences

ANSWER_SETTINGS = {  # settings that decide answers, as in reports written before there was such a flag
    **dict.fromkeys(("temperature", "samples", "seed", "max_num", "max_new_tokens", "prompt_version", "use_cot")),
    "top_p": 1.0,
    "first_greedy": False,
}
Responses = dict[str, list[list[str]]]
"""Way of asking -> the responses to each of its questions."""


@dataclass(frozen=True)
class Way:
    """One way of asking: its name in the report, the questions, and whether answers are sampled."""

    name: str
    questions: list[AskedQuestion]
    is_sampled: bool


def greedy_of(name: str) -> str:
    """The way that asks for the most likely answers, beside one of sampled answers."""
    return f"{name}_greedy"


def uses_cot() -> bool:
    """Whether the environment has VLMEvalKit's USE_COT=1."""
    return os.environ.get("USE_COT") == "1"


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """How answers were made, for the report."""
    names = [name for name in ANSWER_SETTINGS if name != "use_cot"] + ["engine", "beta"]
    return {name: getattr(args, name) for name in names} | {"use_cot": uses_cot()}


def plan(args: argparse.Namespace) -> list[Way]:
    """What is asked, and in which ways; probes always greedily, as POPE is.

    Raises:
        FileNotFoundError, RecordError, ValueError: as of `read_questions`.
    """
    words: dict[str, Words] = {
        "reasoned": reasoned(args.prompt_version),
        "direct": direct,
        "vlmeval": as_vlmevalkit(use_mpo_prompt=args.use_mpo_prompt, use_cot=uses_cot()),
        "probes": direct,
    }
    ways = []
    for name, put in words.items():
        questions = list(
            read_questions(getattr(args, name), put, args.image_root, follow_symlinks=args.follow_symlinks)
        )
        is_sampled = name != "probes" and args.temperature > 0
        ways.append(Way(name, questions, is_sampled))
        if is_sampled and (args.greedy or args.first_greedy):
            ways.append(Way(greedy_of(name), questions, False))
    return [way for way in ways if way.questions]


def answer_ways(ways: Sequence[Way], args: argparse.Namespace, checkpoint: str) -> Responses:
    """The answers of a checkpoint: those of an earlier evaluation that --answers names, else new ones.

    Raises:
        ValueError: a question cannot be answered, or the earlier evaluation asked otherwise.
    """
    if args.answers:
        return saved_answers(args.answers, ways, {"checkpoint": checkpoint, **settings(args)})
    found: Responses = {}
    for is_sampled in (True, False):
        asked = [way for way in ways if way.is_sampled == is_sampled]
        found |= ask_engine(asked, args, checkpoint) if asked else {}
    if args.first_greedy:
        for name in [way.name for way in ways if way.is_sampled]:
            pairs = zip(found[greedy_of(name)], found[name], strict=True)
            found[name] = [greedy + sampled for greedy, sampled in pairs]
    return found


def ask_engine(ways: Sequence[Way], args: argparse.Namespace, checkpoint: str) -> Responses:
    """New answers to the questions of ways that share their sampling; the engine opens once."""
    is_sampled = ways[0].is_sampled
    temperature = args.temperature if is_sampled else 0.0
    drawn = SamplingSettings(temperature, top_p=args.top_p, max_new_tokens=args.max_new_tokens)
    more = {"tp": args.tp, "num_workers": 2, "server": server_options(args)}
    options = EngineOptions(checkpoint, drawn, max_rows=args.batch_size, **more)
    questions = [one for way in ways for one in way.questions]
    samples = args.samples - args.first_greedy if is_sampled else 1
    how = {"samples": samples, "seed": args.seed, "max_tiles": args.max_num}
    responses = iter(answer_questions(questions, args.engine, options, **how))
    return {way.name: [next(responses) for _ in way.questions] for way in ways}


def saved_answers(report: Path, ways: Sequence[Way], asked: Mapping[str, Any]) -> Responses:
    """The answers that an earlier evaluation wrote beside its report.

    Args:
        report: its --out.
        ways: what is asked now.
        asked: `checkpoint` and `settings` of now.

    Raises:
        FileNotFoundError, ValueError: there are none, or they are answers to something else or made otherwise.
    """
    then = read_report(report)
    before = {"checkpoint": then["checkpoint"], **ANSWER_SETTINGS, **then.get("settings", {})}
    names = ("checkpoint", *ANSWER_SETTINGS)
    differences = describe_differences({name: before[name] for name in names}, {name: asked[name] for name in names})
    if differences:
        raise ValueError(f"--answers {report}: made otherwise: {differences}; ask as then, or leave --answers out")
    rows = read_answers(answers_path(report))
    return {way.name: _saved(report, way, rows) for way in ways}


def _saved(report: Path, way: Way, rows: AnswerRows) -> list[list[str]]:
    known = rows.get(way.name, {})
    missing = sum(question.key not in known for question in way.questions)
    if missing:
        raise ValueError(
            f"--answers {report}: {answers_path(report)} lacks {missing} of {len(way.questions)} questions of "
            f"{way.name}: ask the same files in the same words, or leave --answers out"
        )
    return [list(known[question.key]["responses"]) for question in way.questions]
