"""How well a checkpoint answers, and whether it prefers what it should: a table, and the same as JSON.

    python tools/evaluate.py --checkpoint work_dirs/mpo --reference ckpt/base --reasoned held_out_en_prompts.jsonl \
        --direct held_out_en_facts.jsonl --pairs held_out_pairs.json --out work_dirs/mpo/evaluation.json

Answers are the most likely ones (greedy) unless `--temperature` and `--samples` ask for sampled ones, judged by the
checks of the data pipelines. `--reasoned` questions are put in
the words that ask for step-by-step reasoning (Chinese ones where the file's name has `_zh_`), `--direct` ones as they
stand. Pairs tell how often the chosen answer is likelier than the rejected one, and, with `--reference`, the reward
beta * log(policy / reference) of both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from internvl_chat.dataset import MixtureDataset
from internvl_chat.forward import PairLogps, answer_logps, pair_logps, use_shared_prefix
from internvl_chat.jsonl import JsonlFile
from internvl_chat.model import load_config, load_model, load_tokenizer
from internvl_chat.packing import collate_packed
from internvl_chat.records import Prompt, Source, parse_row
from tools.reasoning_data_pipeline.answers import AnswerChecker, Outcome, modes_for_dataset, parse_answer
from tools.reasoning_data_pipeline.engines import (
    Completion,
    EngineOptions,
    Failure,
    Request,
    SamplingSettings,
    open_engine,
)
from tools.reasoning_data_pipeline.prompt_files import ImageRoots
from tools.reasoning_data_pipeline.prompts import VERSIONS, ask, version_for


@dataclass(frozen=True)
class Question:
    """A prompt row and how it is put: `text` as asked in prompt `version`, None for a direct question."""

    prompt: Prompt
    text: str
    version: str | None
    images: tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """Right answers among `questions`; `format_errors` of the others gave no answer in the form asked for."""

    questions: int
    correct: int
    format_errors: int

    @property
    def percent(self) -> float:
        """Right answers in percent."""
        return 100 * self.correct / max(1, self.questions)


@dataclass(frozen=True)
class Preference:
    """What a model says of `pairs` pairs.

    Attributes:
        pairs: pairs that could be read.
        likelier: percent whose chosen answer has the higher log-prob of the two.
        reward_accuracy: percent whose chosen answer has the higher reward; None without a reference.
        reward_margin: mean reward of chosen minus rejected; None without a reference.
    """

    pairs: int
    likelier: float
    reward_accuracy: float | None = None
    reward_margin: float | None = None


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or hub name")
    parser.add_argument("--reference", help="checkpoint that rewards are measured against")
    parser.add_argument("--reasoned", type=Path, nargs="+", default=[], help="prompts to answer step by step")
    parser.add_argument("--direct", type=Path, nargs="+", default=[], help="prompts to answer as they stand")
    parser.add_argument("--pairs", type=Path, help="meta.json of preference pairs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--before", type=Path, help="--out of an earlier evaluation, to compare with")
    parser.add_argument("--least-lift", type=float, help="exit with 1 unless --reasoned rose by so many points")
    parser.add_argument("--prompt-version", choices=VERSIONS, default="en", help="how --reasoned questions are put")
    parser.add_argument("--image-root", type=Path, help="folder of the prompts' images; paths may not lead out of it")
    parser.add_argument("--max-num", type=int, default=12, help="tile limit of a picture")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="cut answers here")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 for the most likely answer")
    parser.add_argument("--samples", type=int, default=1, help="answers to each question, each counted")
    parser.add_argument("--batch-size", type=int, default=64, help="questions answered at once")
    parser.add_argument("--engine", default="auto", help="auto, transformers or lmdeploy")
    parser.add_argument("--beta", type=float, default=0.1, help="of the rewards, as in training")
    return parser.parse_args(argv)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that `args` (of `parse_arguments`) asks for; write and return it as JSON values.

    Raises:
        ValueError: nothing to measure, or an unusable row or meta.json.
        FileNotFoundError: a checkpoint, a prompt file or a picture is not there.
    """
    if not (args.reasoned or args.direct or args.pairs):
        raise ValueError(f"nothing to measure of {args.checkpoint}: give --reasoned, --direct or --pairs")
    report: dict[str, Any] = {"checkpoint": args.checkpoint}
    for way, files in (("reasoned", args.reasoned), ("direct", args.direct)):
        if files:
            version = args.prompt_version if way == "reasoned" else None
            once = [question for file in files for question in read_questions(file, version, args.image_root)]
            questions = [question for question in once for _ in range(args.samples)]
            answers = answer_questions(questions, args, way)
            report[way] = summarize(judge(questions, answers))
    if args.pairs:
        report["pairs"] = asdict(measure_pairs(args))
    if args.before:
        report["before"] = json.loads(args.before.read_text(encoding="utf-8"))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def read_questions(file: Path, version: str | None, image_root: Path | None) -> Iterator[Question]:
    """The rows of a prompt file, put in a prompt version.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: a row is not usable; an evaluation leaves none out.
    """
    rows, images = JsonlFile(file), ImageRoots(file.parent, image_root)
    version = version and version_for(version, file.name)
    for line, line_no in (rows[index] for index in range(len(rows))):
        where = Source(str(file), line_no)
        prompt = Prompt.from_row(parse_row(line, *where), where)
        text = ask(prompt.question, len(prompt.image), version=version, where=where)
        yield Question(prompt, text, version, images.resolve(prompt.image, where))


def answer_questions(questions: Sequence[Question], args: argparse.Namespace, way: str) -> list[str]:
    """The model's answer to each question: the most likely one, or at a temperature above 0 a sampled one.

    Raises:
        ValueError: the engine could not answer one; an evaluation leaves none out.
    """
    settings = SamplingSettings(temperature=args.temperature, max_new_tokens=args.max_new_tokens)
    engine = open_engine(args.engine, EngineOptions(args.checkpoint, settings, max_rows=args.batch_size, num_workers=2))
    requests = (
        Request(str(index), question.text, {0: index}, question.images, args.max_num)
        for index, question in enumerate(questions)
    )
    answers: dict[int, str] = {}
    try:
        for result in tqdm(engine.generate(requests), desc=f"{way} answers", total=len(questions)):
            if isinstance(result, Failure):
                raise ValueError(f"question {questions[int(result.key)].text!r} has no answer: {result.reason}")
            answers[int(result.key)] = _text(result)
    finally:
        engine.close()
    return [answers[index] for index in range(len(questions))]


def _text(completion: Completion) -> str:
    return completion.text.strip()


def judge(questions: Sequence[Question], answers: Iterable[str]) -> Iterator[tuple[Question, Outcome]]:
    """Each question with the outcome of its answer."""
    with AnswerChecker() as checker:
        for question, answer in zip(questions, answers, strict=True):
            final = answer if question.version is None else parse_answer(answer, question.version)
            modes = modes_for_dataset(str(question.prompt.extra.get("dataset", "")))
            yield question, checker.check(final, question.prompt.answer, modes).outcome


def summarize(judged: Iterable[tuple[Question, Outcome]]) -> dict[str, Any]:
    """Accuracy of all questions and, where rows name their `task`, by task."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for question, outcome in judged:
        groups["all"].append(outcome)
        if "task" in question.prompt.extra:
            groups[str(question.prompt.extra["task"])].append(outcome)
    measured = {name: _accuracy(outcomes) for name, outcomes in groups.items()}
    return {name: {"percent": round(found.percent, 2), **asdict(found)} for name, found in measured.items()}


def _accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    return Accuracy(len(outcomes), outcomes.count(Outcome.CORRECT), outcomes.count(Outcome.FORMAT_ERROR))


def measure_pairs(args: argparse.Namespace) -> Preference:
    """Log-probs of the pairs of `args.pairs` by the checkpoint, and rewards against the reference.

    Raises:
        ValueError: no pair of the mixture could be read.
    """
    batches = pair_batches(args.checkpoint, args.pairs, args.batch_size, args.max_num)
    if not batches:
        raise ValueError(f"{args.pairs}: no pair could be read from it")
    policy = log_probs(args.checkpoint, batches, "pairs")
    gaps = policy.chosen - _rejected(policy)
    likelier = _percent(gaps > 0)
    if args.reference is None:
        return Preference(len(gaps), likelier)
    reference = log_probs(args.reference, batches, "pairs, reference")
    margins = args.beta * (gaps - (reference.chosen - _rejected(reference)))
    return Preference(len(gaps), likelier, _percent(margins > 0), round(margins.mean().item(), 4))


def pair_batches(checkpoint: str, meta: Path, batch_size: int, max_tiles: int) -> list[dict[str, Any]]:
    """The pairs of a mixture as packed batches, by the checkpoint's own tokenizer, template and tiling.

    Raises:
        ValueError: the checkpoint names no chat template, or meta.json is not usable.
    """
    config = load_config(checkpoint)
    if config.template is None:
        raise ValueError(f"{checkpoint}: config.json has template {config.template!r}: it must name the chat template")
    dataset = MixtureDataset(
        meta,
        load_tokenizer(checkpoint),
        template=config.template,
        num_image_token=config.num_image_token,
        image_size=config.force_image_size or config.vision_config.image_size,
        max_dynamic_patch=max_tiles,
        dynamic_image_size=config.dynamic_image_size,
        use_thumbnail=config.use_thumbnail,
        pad2square=config.pad2square,
    )
    collate = partial(collate_packed, pad_id=0)
    return [batch for batch in DataLoader(dataset, batch_size, collate_fn=collate) if "packed" in batch]


@torch.inference_mode()
def log_probs(checkpoint: str, batches: Sequence[dict[str, Any]], title: str) -> PairLogps:
    """Log-probs of all pairs, each field (B,) over all batches."""
    model = load_model(checkpoint, dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    use_shared_prefix(model)
    parts = []
    for batch in tqdm(batches, desc=title):
        moved = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in batch.items()}
        parts.append(pair_logps(answer_logps(model, moved), moved["packed"]))
    names = ("chosen", "rejected", "chosen_lengths", "rejected_lengths")
    return PairLogps(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


def _rejected(logps: PairLogps) -> torch.Tensor:
    assert logps.rejected is not None, f"pairs were read with rejected answers, got {logps}"
    return logps.rejected


def _percent(flags: torch.Tensor) -> float:
    return round(100 * flags.double().mean().item(), 2)


def table(report: dict[str, Any]) -> str:
    """The report as lines of text, each figure behind what it was before, if that is known."""
    before = report.get("before", {})
    lines = [" -> ".join(found["checkpoint"] for found in (before, report) if found)]
    for way in ("reasoned", "direct"):
        for name, found in report.get(way, {}).items():
            shown = _shown(before.get(way, {}).get(name, {}).get("percent"), found["percent"])
            lines.append(f"  {f'{way}, {name}':<20} {shown} %   {found['correct']} of {found['questions']} right")
    for name, value in report.get("pairs", {}).items():
        if value is not None:
            lines.append(f"  {f'pairs, {name}':<20} {_shown(before.get('pairs', {}).get(name), value)}")
    return "\n".join(lines)


def _shown(before: float | None, now: float) -> str:
    return f"{now:8.2f}" if before is None else f"{before:8.2f} -> {now:.2f} ({now - before:+.2f})"


def lift(report: dict[str, Any]) -> float:
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
    report = evaluate(args)
    print(table(report))
    if args.least_lift is None or lift(report) >= args.least_lift:
        return 0
    print(f"step-by-step answers rose by {lift(report):.2f} points, less than --least-lift {args.least_lift}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
