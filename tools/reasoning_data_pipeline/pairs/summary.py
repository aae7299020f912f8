"""What a postprocessing run counted: per data set a table for people and a JSON for programs.

Counts add up, so that partitions of a data set can be counted apart and in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

LENGTH_STEP = 20  # characters per bucket of a length distribution
BAR = 30  # characters of the longest bar


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
        all_right, all_wrong: questions with no wrong, or no right answer, among at least one judged.
        left_out: questions and rows beyond --max-lines.
        outcomes: answers by outcome: correct, wrong, undecided, format_error.
        rules: answers by "outcome: rule that decided".
        accuracy: questions by tenths of right among judged answers, 0 .. 10.
        pairs: pairs by kind.
        lengths: "kind chosen" or "kind rejected" -> pairs by length in buckets of 20 characters.
    """

    rows: int = 0
    bad_rows: int = 0
    questions: int = 0
    duplicates: int = 0
    all_right: int = 0
    all_wrong: int = 0
    left_out: Counter[str] = _counter()
    outcomes: Counter[str] = _counter()
    rules: Counter[str] = _counter()
    accuracy: Counter[int] = _counter()
    pairs: Counter[str] = _counter()
    lengths: dict[str, Counter[int]] = field(default_factory=dict)

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

    def add(self, other: PairSummary) -> None:
        """Add the counts of another part."""
        for name in (item.name for item in fields(self) if item.name != "lengths"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, lengths in other.lengths.items():
            self.lengths[name] = self.lengths.get(name, Counter()) + lengths

    def to_json(self) -> dict[str, Any]:
        """JSON values; lengths as mean and percentiles."""
        counts = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **{name: dict(sorted(v.items())) if isinstance(v, Counter) else v for name, v in counts.items()},
            "accuracy": {f"{tenth * 10}%": self.accuracy[tenth] for tenth in range(11)},
            "lengths": {name: describe_lengths(lengths) for name, lengths in sorted(self.lengths.items())},
        }


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
        f"{summary['bad_rows']} bad rows",
        f"all right {summary['all_right']}, all wrong {summary['all_wrong']}, pairs {_counts(summary['pairs'])}",
        f"outcomes: {_counts(summary['outcomes'])}",
        *(f"left out by --max-lines: {_counts(summary['left_out'])}" for _ in range(bool(summary["left_out"]))),
        "questions by share of right answers:",
        *_bars(summary["accuracy"]),
        "verdicts by rule:",
        *_bars(dict(sorted(summary["rules"].items(), key=lambda item: -item[1]))),
        "lengths in characters:",
        *(f"  {kind:<22} {_counts(numbers)}" for kind, numbers in summary["lengths"].items()),
    ]
    return "\n".join(lines)


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _bars(counts: Mapping[str, int]) -> list[str]:
    """One line per count with a bar whose length is its share of the largest."""
    largest, width = max(counts.values(), default=0) or 1, max(map(len, counts), default=0)
    return [f"  {name:>{width}} {count:>8} {'#' * round(BAR * count / largest)}" for name, count in counts.items()]
