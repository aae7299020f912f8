"""How well a checkpoint answers, and whether it prefers what it should: a table, the same as JSON, and a plot.

    python tools/evaluate.py --checkpoint work_dirs/mpo --reference ckpt/base --reasoned held_out_en_prompts.jsonl \
        --direct held_out_en_facts.jsonl --pairs held_out_pairs.json --out work_dirs/mpo/evaluation.json
    python tools/evaluate.py --checkpoint work_dirs/mpo --against ckpt/base --reasoned questions.jsonl \
        --temperature 1 --samples 8 --greedy

Answers are the most likely ones (greedy) unless `--temperature` and `--samples` ask for sampled ones, judged by the
checks of the data pipelines. `--reasoned` questions are put in the words that ask for step-by-step reasoning (Chinese
ones where the file's name has `_zh_`), `--direct` ones as they stand, `--vlmeval` ones as VLMEvalKit puts them under
`--use-mpo-prompt` and the environment's USE_COT. `--probes` ask whether an object is there. Pairs tell how often the
chosen answer is likelier than the rejected one, and, with `--reference`, the reward beta * log(policy / reference).
`--critic` chooses one of the sampled answers (docs/best_of_n.md).
Figures have intervals of 95 %; `--before` or `--against` adds a paired test. A repeat gives the same figures.
With --out x.json the answers stand in x.answers.jsonl. docs/evaluation.md tells more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_chat.critic.answers import HOW
from internvl_chat.model.critic_turns import MAX_STEPS
from internvl_chat.records.durable import json_text, write_atomically
from internvl_chat.run.entry import Parser, at_least, enter
from internvl_chat.run.process import find_process
from tools.evaluation.accuracy import summarize
from tools.evaluation.answering import (
    Answered,
    AnswerRows,
    answer_rows,
    answers_path,
    judge,
    read_answers,
    with_earlier,
    write_answers,
)
from tools.evaluation.comparison import compare
from tools.evaluation.critics import check_choosing, choose_ways
from tools.evaluation.probes import judge_probes, measure_probes
from tools.evaluation.table import read_report, table
from tools.evaluation.ways import answer_ways, plan, settings
from tools.reasoning_data_pipeline.engines.gpus import engine_worker
from tools.reasoning_data_pipeline.engines.opening import ENGINES, WITHOUT_GPUS
from tools.reasoning_data_pipeline.engines.server_arguments import add_servers
from tools.reasoning_data_pipeline.prompts.files import add_symlink_flag
from tools.reasoning_data_pipeline.prompts.wording import VERSIONS


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or hub name")
    parser.add_argument("--reference", help="checkpoint that rewards are measured against")
    parser.add_argument("--reasoned", type=Path, nargs="+", default=[], help="prompts to answer step by step")
    parser.add_argument("--direct", type=Path, nargs="+", default=[], help="prompts to answer as they stand")
    parser.add_argument("--vlmeval", type=Path, nargs="+", default=[], help="prompts to put as VLMEvalKit does")
    parser.add_argument("--use-mpo-prompt", action="store_true", help="of --vlmeval, as in VLMEvalKit's config")
    parser.add_argument("--probes", type=Path, nargs="+", default=[], help="yes-or-no questions about objects")
    parser.add_argument("--pairs", type=Path, help="meta.json of preference pairs")
    parser.add_argument("--by", default="task", help="row field to group by, such as metadata.task")
    parser.add_argument("--prompt-version", choices=VERSIONS, default="en", help="how --reasoned questions are put")
    parser.add_argument("--image-root", type=Path, help="folder of the prompts' images; paths may not lead out of it")
    add_symlink_flag(parser)
    parser.add_argument("--beta", type=float, default=0.1, help="of the rewards, as in training")
    _add_answers(parser)
    _add_choosing(parser)
    add_servers(parser)
    _add_results(parser)
    return parser.parse_args(argv)


def _add_answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answers")
    group.add_argument("--temperature", type=float, default=0.0, help="0 for the most likely answer")
    group.add_argument(
        "--samples", type=at_least(1), default=1, help="answers to a question: pass@1 and the majority's"
    )
    group.add_argument("--greedy", action="store_true", help="besides sampled answers also the most likely one")
    group.add_argument("--top-p", type=float, default=1.0, help="draw tokens from so much probability; default all")
    group.add_argument("--seed", type=int, default=0, help="of the sampled answers")
    group.add_argument("--max-num", type=at_least(1), default=12, help="tile limit of a question's pictures together")
    group.add_argument("--max-new-tokens", type=at_least(1), default=1024, help="cut answers here")
    group.add_argument("--batch-size", type=at_least(1), default=64, help="answers made at once")
    group.add_argument("--engine", choices=ENGINES, default="auto", help="default %(default)s: the log says which")
    group.add_argument("--tp", type=at_least(1), default=int(os.environ.get("TP") or 1), help="GPUs; default $TP or 1")


def _add_choosing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("choosing one of several answers")
    group.add_argument("--critic", help="checkpoint of a process reward model that chooses one of --samples answers")
    group.add_argument("--score-by", choices=tuple(HOW), default="mean", help="score of an answer by its steps")
    group.add_argument("--max-steps", type=at_least(1), default=MAX_STEPS, help="join an answer's steps to so many")
    group.add_argument("--critic-max-num", type=at_least(1), default=6, help="tile limit of a question for the critic")
    group.add_argument(
        "--first-greedy",
        action="store_true",
        help="the first of --samples is the most likely answer; as published with --temperature 0.6 --top-p 0.95",
    )
    group.add_argument("--answers", type=Path, help="--out of an evaluation whose answers to take instead of new ones")


def _add_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--out", type=Path, help="JSON file to write")
    group.add_argument("--plot", type=Path, help="picture of the accuracies to write: .png, .pdf or .svg")
    group.add_argument("--before", type=Path, help="--out of an earlier evaluation, to compare with")
    group.add_argument("--against", help="checkpoint to evaluate on the same first, and to compare with")
    group.add_argument("--least-lift", type=float, help="exit with 1 unless --reasoned rose by so many points")


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that `args` (of `parse_arguments`) asks for; write and return it as JSON values.

    Raises:
        ValueError: nothing to measure, settings that do not go together, an unusable meta.json, or other questions
            than before.
        RecordError: an unusable row.
        FileNotFoundError: a checkpoint, a prompt file or a picture is not there.
    """
    check_arguments(args)
    before = earlier(args)
    report, answers = measure(args, args.checkpoint)
    if before is not None:
        report["before"], answers_before = before
        report["comparison"] = compare(answers_before, answers)
        answers = with_earlier(answers, answers_before)
    if args.out:
        write_answers(answers_path(args.out), answers)
        write_atomically(args.out, [json_text(report)])
    if args.plot:
        from tools.evaluation.plots import save_plot

        save_plot(report, args.plot)
    return report


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for values that do not go together."""
    if not (args.reasoned or args.direct or args.vlmeval or args.probes or args.pairs):
        raise ValueError(f"nothing to measure of {args.checkpoint}: give --reasoned, --direct, --probes or --pairs")
    if args.samples < 1 or (args.samples > 1 and args.temperature == 0):
        raise ValueError(f"--samples {args.samples} needs --temperature above 0: the most likely answer is one")
    if args.first_greedy and (args.samples < 2 or args.temperature == 0):
        raise ValueError(f"--first-greedy with --samples {args.samples} leaves none to sample: give 2 or more")
    check_choosing(args)
    if args.beta <= 0:
        raise ValueError(f"--beta {args.beta} must be above 0")
    if args.against and args.before:
        raise ValueError("--before and --against are two things to compare with: give one")


def earlier(args: argparse.Namespace) -> tuple[dict[str, Any], AnswerRows] | None:
    """Report and answers to compare with: of --before, or of --against, which is evaluated now."""
    if args.against:
        return measure(args, args.against)
    if args.before:
        return read_report(args.before), read_answers(answers_path(args.before))
    return None


def measure(args: argparse.Namespace, checkpoint: str) -> tuple[dict[str, Any], AnswerRows]:
    """The figures of one checkpoint as JSON values, and its answers."""
    report: dict[str, Any] = {"checkpoint": checkpoint, "settings": settings(args)}
    rows: AnswerRows = {}
    ways = plan(args)
    responses = answer_ways(ways, args, checkpoint)
    answered: dict[str, list[Answered]] = {}
    for way in ways:
        if way.name == "probes":
            answered[way.name] = judge_probes(way.questions, responses[way.name])
            report[way.name] = measure_probes(answered[way.name])
        else:
            answered[way.name] = list(judge(way.questions, responses[way.name]))
            report[way.name] = summarize(answered[way.name], args.by)
        rows[way.name] = answer_rows(way.name, answered[way.name])
    if args.critic:
        report["best_of"] = choose_ways(args, ways, answered, rows)
    if args.pairs:
        from tools.evaluation.preference import measure_pairs  # with torch, which takes seconds

        report["pairs"] = measure_pairs(
            checkpoint,
            args.reference,
            args.pairs,
            beta=args.beta,
            batch_size=args.batch_size,
            max_tiles=args.max_num,
            follow_symlinks=args.follow_symlinks,
        )
    return report, rows


def lift(report: Mapping[str, Any]) -> float:
    """Points of accuracy by which step-by-step answers rose.

    Raises:
        ValueError: one of the two evaluations has no such answers.
    """
    if "reasoned" not in report or "reasoned" not in report.get("before", {}):
        raise ValueError(f"{report['checkpoint']}: --least-lift needs --reasoned, and --before with it")
    return report["reasoned"]["all"]["percent"] - report["before"]["reasoned"]["all"]["percent"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status says whether --least-lift was reached."""
    args = parse_arguments(argv)
    worker = engine_worker(find_process(), 1 if args.engine in WITHOUT_GPUS else args.tp)
    if worker is None or worker.rank:
        return 0  # one engine answers all, on the GPUs of the first --tp tasks
    report = evaluate(args)
    print(table(report))
    if args.least_lift is None or lift(report) >= args.least_lift:
        return 0
    print(f"step-by-step answers rose by {lift(report):.2f} points, less than --least-lift {args.least_lift}")
    return 1


if __name__ == "__main__":
    enter(main)
