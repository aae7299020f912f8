"""Sampled answers to pairs: right ones against wrong ones, and against those that broke the format.

A part of a data set is judged question by question (`convert`); what was counted adds up over the parts. Empty answers
are counted and never paired: there is nothing to learn from them, and training would skip the row. A right answer is
never the rejected side, and the chosen one only in the style that was asked for.
"""

from __future__ import annotations

import argparse
import atexit
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import orjson

from internvl_chat.records.rows import RecordError, SampledResponse, Source, is_blank, parse_row, shown
from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, modes_for_dataset
from tools.reasoning_data_pipeline.answers.judging import (
    Judge,
    JudgedAnswer,
    JudgedQuestion,
    VerdictCache,
    Verdicts,
    in_style,
    tidy_answer,
)
from tools.reasoning_data_pipeline.pairs.conversion import Conversion, Portion, RowFiles
from tools.reasoning_data_pipeline.pairs.grouping import draw_pairs, question_key, widest_pairs

PAIR_KINDS = {"correctness": "wrong", "format": "format_error"}  # kind -> outcome of its rejected answers
ANSWER_FIELDS = frozenset({"question_orig", "response", "prompt_version"})  # what sampling adds to a prompt row
PLAIN_FIELDS = ("image", "question", "answer", *sorted(ANSWER_FIELDS))
LENGTH_STEP = 20  # characters per bucket of a length distribution
BAR = 30  # characters of the longest bar
AUDIT_SAMPLES = 8  # of what each rule called correct
SHOWN_SAMPLES = 3  # of these in the table for people
AUDIT_CHARS = 80  # of a text in such a sample


def _counter() -> Any:
    return field(default_factory=Counter)


@dataclass
class PairSummary:
    """Counts over one data set or a part of it.

    Attributes:
        rows: sampled answers read, bad rows left out.
        bad_rows: rows that went to rejects.jsonl.
        questions: distinct (image, question, answer).
        duplicates: answers that repeat another answer to the same question word for word.
        empty_answers: answers without anything that can be seen, which no pair has.
        all_right, all_wrong: questions with no wrong, or no right answer, among at least one judged.
        left_out: questions and rows beyond --max-lines.
        outcomes: answers by outcome: correct, wrong, undecided, format_error.
        rules: answers by "outcome: rule that decided".
        kept_out: answers that are in no pair though right, or perhaps right, by the reason.
        called_correct: rule -> samples (answer, ground truth, question) of what it called correct, to be looked at.
        accuracy: questions by tenths of right among judged answers, 0 .. 10.
        pairs: pairs by kind.
        lengths: "kind chosen" or "kind rejected" -> pairs by length in buckets of 20 characters.
        learned: verdicts that were slow to find, for the next run.
    """

    rows: int = 0
    bad_rows: int = 0
    questions: int = 0
    duplicates: int = 0
    empty_answers: int = 0
    all_right: int = 0
    all_wrong: int = 0
    left_out: Counter[str] = _counter()
    outcomes: Counter[str] = _counter()
    rules: Counter[str] = _counter()
    kept_out: Counter[str] = _counter()
    accuracy: Counter[int] = _counter()
    pairs: Counter[str] = _counter()
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    called_correct: dict[str, list[list[str]]] = field(default_factory=dict)
    learned: Verdicts = field(default_factory=dict)

    def count_answers(self, question: JudgedQuestion) -> None:
        """Count the answers to one question, and the question."""
        repeats = question.repeats
        self.rows += sum(repeats.values())
        self.duplicates += sum(repeats.values()) - len(repeats)
        self.empty_answers += sum(repeats[text] for text in repeats if is_blank(text))
        for answer in question.answers:
            self.outcomes[answer.outcome] += repeats[answer.text]
            self.rules[f"{answer.outcome}: {answer.rule}"] += repeats[answer.text]
            if answer.may_be_right:
                self.kept_out["format error with a readable answer that is not wrong"] += repeats[answer.text]
            if answer.outcome == "correct":
                self._keep_sample(
                    answer.rule, [answer.final, str(question.prompt.answer), question.prompt.question_orig]
                )
        self.count_question(question.count("correct"), question.count("wrong"))

    def _keep_sample(self, rule: str, sample: list[str]) -> None:
        """Keep what a rule called correct, unless the texts are the same or there are enough samples."""
        kept = self.called_correct.setdefault(rule, [])
        if sample[0] != sample[1] and len(kept) < AUDIT_SAMPLES:
            shown = [text if len(text) <= AUDIT_CHARS else f"{text[:AUDIT_CHARS]}.." for text in sample]
            if shown[:2] not in [known[:2] for known in kept]:
                kept.append(shown)

    def count_question(self, correct: int, wrong: int) -> None:
        """Count one question with so many right and wrong answers."""
        self.questions += 1
        judged = correct + wrong
        if judged:
            self.all_right += wrong == 0
            self.all_wrong += correct == 0
            self.accuracy[10 * correct // judged] += 1

    def count_pairs(self, kind: str, texts: Iterable[tuple[str, str]]) -> None:
        """Count (chosen, rejected) texts of one kind of pairs."""
        chosen = self.lengths.setdefault(f"{kind} chosen", Counter())
        rejected = self.lengths.setdefault(f"{kind} rejected", Counter())
        for better, worse in texts:
            self.pairs[kind] += 1
            chosen[len(better) // LENGTH_STEP] += 1
            rejected[len(worse) // LENGTH_STEP] += 1

    def update(self, other: PairSummary) -> None:
        """Add the counts of another part."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, lengths in other.lengths.items():
            self.lengths[name] = self.lengths.get(name, Counter()) + lengths
        for rule, samples in other.called_correct.items():
            kept = self.called_correct.setdefault(rule, [])
            kept += samples[: AUDIT_SAMPLES - len(kept)]
        self.learned |= other.learned

    def to_json(self) -> dict[str, Any]:
        """JSON values; lengths as mean and percentiles."""
        counts = {name: getattr(self, name) for name in COUNTED}
        return {
            **{name: dict(sorted(v.items())) if isinstance(v, Counter) else v for name, v in counts.items()},
            "accuracy": {f"{tenth * 10}%": self.accuracy[tenth] for tenth in range(11)},
            "called_correct": {rule: samples for rule, samples in sorted(self.called_correct.items()) if samples},
            "lengths": {name: describe_lengths(lengths) for name, lengths in sorted(self.lengths.items())},
        }


COUNTED = tuple(item.name for item in fields(PairSummary) if item.name not in ("lengths", "called_correct", "learned"))


def describe_lengths(lengths: Mapping[int, int]) -> dict[str, float]:
    """Mean, median and 90th percentile in characters, exact to half a bucket (10 characters)."""
    total = sum(lengths.values())
    mean = sum(_middle(bucket) * count for bucket, count in lengths.items()) / total if total else 0.0
    return {"mean": round(mean, 1), "median": _percentile(lengths, 0.5), "p90": _percentile(lengths, 0.9)}


def _middle(bucket: int) -> float:
    return (bucket + 0.5) * LENGTH_STEP


def _percentile(lengths: Mapping[int, int], share: float) -> float:
    """The middle of the bucket below or in which `share` of all lengths lie; 0 where there are none."""
    below, wanted = 0, share * sum(lengths.values())
    for bucket in sorted(lengths):
        below += lengths[bucket]
        if below >= wanted:
            return _middle(bucket)
    return 0.0


def format_summary(name: str, summary: Mapping[str, Any]) -> str:
    """The table of one data set, from `PairSummary.to_json`."""
    lines = [
        f"== {name}",
        f"{summary['rows']} answers to {summary['questions']} questions; {summary['duplicates']} duplicates, "
        f"{summary['empty_answers']} empty, {summary['bad_rows']} bad rows",
        f"all right {summary['all_right']}, all wrong {summary['all_wrong']}, pairs {_counts(summary['pairs'])}",
        f"outcomes: {_counts(summary['outcomes'])}",
        *([f"left out by --max-lines: {_counts(summary['left_out'])}"] if summary["left_out"] else []),
        *([f"in no pair: {_counts(summary['kept_out'])}"] if summary["kept_out"] else []),
        "questions by share of right answers:",
        *_bars(summary["accuracy"]),
        "verdicts by rule:",
        *_bars(dict(sorted(summary["rules"].items(), key=lambda item: -item[1]))),
        "called correct, to be looked at (answer ~ ground truth):",
        *(f"  {rule}: {_samples(samples)}" for rule, samples in summary["called_correct"].items()),
        "lengths in characters:",
        *(f"  {kind:<22} {_counts(numbers)}" for kind, numbers in summary["lengths"].items()),
    ]
    return "\n".join(lines)


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _samples(samples: list[list[str]]) -> str:
    return "; ".join(f"{answer!r} ~ {gold!r}" for answer, gold, _ in samples[:SHOWN_SAMPLES])


def _bars(counts: Mapping[str, int]) -> list[str]:
    """One line per count with a bar whose length is its share of the largest."""
    largest, width = max(counts.values(), default=0) or 1, max(map(len, counts), default=0)
    return [f"  {name:>{width}} {count:>8} {'#' * round(BAR * count / largest)}" for name, count in counts.items()]


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


def scored_key(line: bytes, where: Source) -> str:
    """As `sampled_key`, of a row that a critic scored; RecordError where it has no score."""
    score = parse_row(line, *where).get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise RecordError(
            *where, f"field 'score' must be in 0..1, as tools/score_steps.py writes it, not {shown(score)}"
        )
    return sampled_key(line, where)


def convert(part: Portion, files: RowFiles) -> PairSummary:
    """Judge the questions of a part and write their pairs and items."""
    cache = verdict_cache(part)
    judge = Judge(_process_checker(), modes_for_dataset(part.dataset), cache.read() if cache else {})
    left = part.args.max_lines - part.rows_before if part.args.max_lines else None
    summary = PairSummary(learned=judge.learned)
    for group in part.groups():
        if left is not None:
            left -= len(group.lines)
            if left < 0:
                summary.left_out.update({"questions": 1, "rows": len(group.lines)})
                continue
        question = judge.judge(group.rows())
        summary.count_answers(question)
        write_question(question, part, group.key, files, summary)
    return summary


@functools.cache
def _process_checker() -> AnswerChecker:
    """One checker per process for all its parts: its helper processes take seconds to start."""
    checker = AnswerChecker()
    atexit.register(checker.close)
    return checker


def write_question(question: JudgedQuestion, part: Portion, key: str, files: RowFiles, summary: PairSummary) -> None:
    """Write the pairs and items of one question; count the pairs."""
    prompt, row = question.prompt, question.prompt.to_row()
    right = {
        tidy_answer(answer, prompt.prompt_version, prompt.answer) if part.args.answer_fix else answer.text: answer
        for answer in question.having("correct")
    }
    exemplary = {text: answer for text, answer in right.items() if in_style(text, answer, prompt.prompt_version)}
    for text in right.keys() - exemplary.keys():
        summary.kept_out[f"right, but {right[text].style}"] += question.repeats[right[text].text]
    quote = functools.cache(_quote)  # every text is in several pairs
    shared = {"image": row["image"]} if row.get("image") else {}
    shared["question"] = quote(prompt.question)
    for kind, outcome in PAIR_KINDS.items():
        worse = [answer for answer in question.rejectable(outcome) if not is_blank(answer.text)]
        pairs = _choose_pairs(list(exemplary.items()), worse, part.args, f"{kind} {key}")
        for (text, better), other in pairs:
            rules: dict[str, Any] = {
                "chosen_rule": better.rule,
                "rejected_rule": other.rule,
                "rejected_verdict": other.outcome,
            }
            if part.args.by_score:
                rules |= {"chosen_score": better.score, "rejected_score": other.score}
            sides = {"chosen": quote(text), "rejected": quote(other.text), "answer_gt": prompt.answer}
            sides["chosen_answer"] = better.final
            files[kind].write({**shared, **sides, **rules})
        summary.count_pairs(kind, ((text, other.text) for (text, _), other in pairs))
    for text in right:
        files["pos"].write({**row, **shared, "response": quote(text)})
    if not right:
        counts = {outcome: question.count(outcome) for outcome in ("wrong", "undecided", "format_error")}
        asked = {name: value for name, value in row.items() if name not in ANSWER_FIELDS}
        files["neg"].write({**asked, "question": prompt.question_orig, "counts": counts})


def _choose_pairs(
    right: list[tuple[str, JudgedAnswer]], worse: list[JudgedAnswer], args: argparse.Namespace, seed: str
) -> list[tuple[tuple[str, JudgedAnswer], JudgedAnswer]]:
    """As many pairs as asked for: those whose scores are furthest apart with --by-score, else drawn evenly."""
    if args.by_score:
        return widest_pairs(right, worse, args.num_pairs_per_key, lambda one: one[1].score, lambda other: other.score)
    return draw_pairs(right, worse, args.num_pairs_per_key, seed)


def _quote(text: str) -> orjson.Fragment:
    """The text as JSON that later lines copy."""
    return orjson.Fragment(orjson.dumps(text))


def verdict_cache(part: Portion) -> VerdictCache | None:
    """The verdicts that are kept of a data set, where --use-correctness-cache asks for them."""
    path = part.args.save_dir / "correctness_cache" / f"{part.dataset}.jsonl"
    return VerdictCache(path) if part.args.use_correctness_cache else None


def keep_verdicts(part: Portion, summary: PairSummary) -> None:
    """Keep the slow verdicts of a part for the next run."""
    if summary.learned and (cache := verdict_cache(part)):
        cache.learn(summary.learned)


CORRECTNESS = Conversion(
    outputs={
        "correctness": "raw/{}_pairs_vqa_correctness_rules.jsonl",
        "format": "raw/{}_pairs_vqa_format_rules.jsonl",
        "pos": "pos_items/{}.jsonl",
        "neg": "neg_items/{}.jsonl",
    },
    metas={"meta.json": tuple(PAIR_KINDS)},
    find_key=sampled_key,
    convert=convert,
    options=("num_pairs_per_key", "answer_fix", "max_lines"),
    keep=keep_verdicts,
    describe=format_summary,
)
BY_SCORE = replace(CORRECTNESS, find_key=scored_key, options=(*CORRECTNESS.options, "by_score"))
"""The same of answers that a critic scored: rows without a score are rejected."""
