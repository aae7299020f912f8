"""One data set from sampled answers to pair files.

The answers are read once into partitions (see pairs.py); partitions are judged in worker processes, each writes its
share of the outputs, and the shares are joined in the order of the partitions. Memory holds one partition per process.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from tqdm import tqdm

from internvl_chat.records.durable import join_files, json_line
from internvl_chat.records.rows import SampledResponse, Source, parse_row
from tools.reasoning_data_pipeline.answers.judging import Checker, Judge, JudgedQuestion, Verdicts, tidy_answer
from tools.reasoning_data_pipeline.pairs.drawing import KeyPartitions, draw_pairs, question_key, read_groups
from tools.reasoning_data_pipeline.pairs.sampled import SampledDataset, partition_rows
from tools.reasoning_data_pipeline.pairs.summary import PairSummary

# Output files of a data set, by what they hold.
OUTPUTS = {
    "correctness": "raw/{}_pairs_vqa_correctness_rules.jsonl",
    "format": "raw/{}_pairs_vqa_format_rules.jsonl",
    "pos": "pos_items/{}.jsonl",
    "neg": "neg_items/{}.jsonl",
}
PAIR_KINDS = {"correctness": "wrong", "format": "format_error"}  # kind -> outcome of its rejected answers
ANSWER_FIELDS = frozenset({"question_orig", "response", "prompt_version"})  # what sampling adds to a prompt row
PLAIN_FIELDS = ("image", "question", "answer", *sorted(ANSWER_FIELDS))
BUFFER = 1 << 20  # bytes

CheckerFactory = Callable[[], Checker]


@dataclass(frozen=True)
class PairOptions:
    """What decides the pairs, beside the answers.

    Attributes:
        num_pairs_per_key: at most so many pairs of each kind per question; 0 for all.
        answer_fix: tidy the last line of chosen answers.
        max_lines: at most so many answers per data set, whole questions only; 0 for all.
    """

    num_pairs_per_key: int = 15
    answer_fix: bool = False
    max_lines: int = 0


@dataclass(frozen=True)
class _PartitionTask:
    """One partition to be judged.

    Attributes:
        lines: the partition file.
        outputs: prefix of the files to write, one per kind of `OUTPUTS`.
        budget: answers that --max-lines leaves for this partition and those behind it; None for no limit.
        known: verdicts of an earlier run.
    """

    lines: Path
    outputs: Path
    budget: int | None
    options: PairOptions
    modes: tuple[str, ...]
    known: Verdicts = field(default_factory=dict)

    def output(self, kind: str) -> Path:
        """The file for one kind of output."""
        return self.outputs.with_suffix(f".{kind}")


@dataclass
class DatasetRun:
    """Makes the pair files of one data set.

    Attributes:
        dataset: its files.
        save_dir: where the outputs go.
        options: what decides the pairs.
        modes: how its answers are compared.
        make_checker: called once per process; must be picklable.
        num_workers: processes; 1 works in this one.
        known: verdicts of an earlier run; see `Judge`.
    """

    dataset: SampledDataset
    save_dir: Path
    options: PairOptions
    modes: tuple[str, ...]
    make_checker: CheckerFactory
    num_workers: int = 1
    known: Verdicts = field(default_factory=dict)

    def run(self, learn: Callable[[Verdicts], None]) -> tuple[PairSummary, list[dict[str, Any]]]:
        """Write the outputs; `learn` gets the slow verdicts. Returns the counts and the rejected rows."""
        folder = self.save_dir / f".{self.dataset.name}.partitions"
        with KeyPartitions(folder, KeyPartitions.count_for(self.dataset.size)) as partitions:
            rejects = partition_rows(self.dataset, partitions, sampled_key)
            tasks = self._tasks(partitions)
            summary = PairSummary(bad_rows=len(rejects))
            for counts, learned in self._judged(tasks):
                summary.add(counts)
                learn(learned)
            for kind, name in OUTPUTS.items():
                join_files(self.save_dir / name.format(self.dataset.name), [task.output(kind) for task in tasks])
        return summary, rejects

    def _tasks(self, partitions: KeyPartitions) -> list[_PartitionTask]:
        before = itertools.accumulate(partitions.lines, initial=0)
        limit = self.options.max_lines
        return [
            _PartitionTask(
                lines=partitions.path(index),
                outputs=partitions.folder / f"{index:03d}",
                budget=limit - rows if limit else None,
                options=self.options,
                modes=self.modes,
                known=self.known,
            )
            for index, rows in zip(range(partitions.count), before, strict=False)
        ]

    def _judged(self, tasks: Sequence[_PartitionTask]) -> Iterator[tuple[PairSummary, Verdicts]]:
        """Second pass: counts and slow verdicts of each partition, in order."""
        work = functools.partial(judge_partition, self.make_checker)
        with ExitStack() as stack:
            results: Iterable[tuple[PairSummary, Verdicts]]
            if self.num_workers == 1 or len(tasks) == 1:
                results = map(work, tasks)
            else:
                spawn = multiprocessing.get_context("spawn")  # a checker must not cross a fork
                pool = ProcessPoolExecutor(min(self.num_workers, len(tasks)), mp_context=spawn)
                results = stack.enter_context(pool).map(work, tasks)
            yield from tqdm(results, total=len(tasks), unit="part", desc=f"{self.dataset.name}: judge")


def sampled_key(line: bytes, where: Source) -> str:
    """The key of a row; RecordError with the reason if it is not a sampled answer.

    Rows of the plainest form, nearly all, pass by a look at the types; a record is built for the others only.
    """
    row = parse_row(line, *where)
    is_plain = set(map(type, map(row.get, PLAIN_FIELDS))) == {str} and not row.get("video")
    if is_plain and row["image"] and row["question"].strip():
        return question_key((row["image"],), row["question"], row["answer"])
    record = SampledResponse.from_row(row, where)
    return question_key(record.image, record.question, record.answer)


@functools.cache
def _process_checker(make_checker: CheckerFactory) -> Checker:
    """One checker per process for all its partitions: its helper processes take seconds to start."""
    checker = make_checker()
    atexit.register(checker.close)
    return checker


def judge_partition(
    make_checker: CheckerFactory, task: _PartitionTask
) -> tuple[PairSummary, dict[str, tuple[str, str]]]:
    """Judge the questions of one partition and write its outputs; returns its counts and its slow verdicts."""
    judge = Judge(_process_checker(make_checker), task.modes, task.known)
    summary, left = PairSummary(), task.budget
    with ExitStack() as stack:
        files = {kind: stack.enter_context(open(task.output(kind), "wb", buffering=BUFFER)) for kind in OUTPUTS}
        for group in read_groups(task.lines):
            if left is not None:
                left -= len(group.lines)
                if left < 0:
                    summary.left_out.update({"questions": 1, "rows": len(group.lines)})
                    continue
            question = judge.judge(group)
            _count(question, summary)
            _write_question(question, group.key, task.options, files, summary)
    return summary, judge.learned


def _count(question: JudgedQuestion, summary: PairSummary) -> None:
    repeats = question.repeats
    summary.rows += sum(repeats.values())
    summary.duplicates += sum(repeats.values()) - len(repeats)
    for answer in question.answers:
        summary.outcomes[answer.outcome] += repeats[answer.text]
        summary.rules[f"{answer.outcome}: {answer.rule}"] += repeats[answer.text]
    summary.count_question(question.count("correct"), question.count("wrong"))


def _write_question(
    question: JudgedQuestion, key: str, options: PairOptions, files: dict[str, BinaryIO], summary: PairSummary
) -> None:
    """Write the pairs and items of one question."""
    prompt, row = question.prompt, question.prompt.to_row()
    right = {
        tidy_answer(answer, prompt.prompt_version, prompt.answer) if options.answer_fix else answer.text: answer
        for answer in question.having("correct")
    }
    quote = functools.cache(_quote)  # every text is in several pairs
    shared = {"image": row["image"]} if row.get("image") else {}
    shared["question"] = quote(prompt.question)
    for kind, outcome in PAIR_KINDS.items():
        pairs = draw_pairs(list(right), question.having(outcome), options.num_pairs_per_key, f"{kind} {key}")
        files[kind].writelines(
            json_line(
                {
                    **shared,
                    "chosen": quote(text),
                    "rejected": quote(worse.text),
                    "answer_gt": prompt.answer,
                    "chosen_rule": right[text].rule,
                    "rejected_rule": worse.rule,
                    "rejected_verdict": worse.outcome,
                }
            )
            for text, worse in pairs
        )
        summary.count_pairs(kind, ((text, worse.text) for text, worse in pairs))
    files["pos"].writelines(json_line({**row, **shared, "response": quote(text)}) for text in right)
    if not right:
        counts = {outcome: question.count(outcome) for outcome in ("wrong", "undecided", "format_error")}
        asked = {name: value for name, value in row.items() if name not in ANSWER_FIELDS}
        files["neg"].write(json_line({**asked, "question": prompt.question_orig, "counts": counts}))


def _quote(text: str) -> orjson.Fragment:
    """The text as JSON that later lines copy."""
    return orjson.Fragment(orjson.dumps(text))
