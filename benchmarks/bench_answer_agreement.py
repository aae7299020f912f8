"""Agreement of the answer checks with labelled rows, by kind, beside math-verify alone.

    python benchmarks/bench_answer_agreement.py                        # own cases, writes results/answer_agreement.json
    python benchmarks/bench_answer_agreement.py rows.jsonl --failures  # any files; prints each row that does not agree

A row: `answer` (a string, or a list of accepted ones), `candidate` (a final answer) or `response` with `prompt_version`
(en where it is absent), `expected` ("equal" or "different"), `kind`, and perhaps `id`, `dataset` (its name picks the
checks), `question` and `options`. A row agrees where "correct" meets equal, or "wrong" or "format_error" different; an
undecided one agrees with neither. math-verify gets the same final answers, without data set, options and question.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from machine import write_results
from math_verify import parse, verify

from tools.reasoning_data_pipeline.answers import (
    AnswerChecker,
    Outcome,
    ParsedAnswer,
    Question,
    accepted_texts,
    modes_for_dataset,
    parse_answer,
)

CASES = Path(__file__).resolve().parents[1] / "tests" / "answers"
OWN_FILES = ("kinds.jsonl", "own_kinds.jsonl")
COLUMNS = ("rows", "agree", "false accept", "false reject", "undecided")

Judge = Callable[[Sequence[Question]], Iterable[Outcome]]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; ValueError names a line that has no answer, no candidate or no label."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if "answer" not in row or not {"candidate", "response"} & set(row):
            raise ValueError(
                f"{path}:{number}: a row needs 'answer' and 'candidate' or 'response'; it has {sorted(row)}"
            )
        if row.get("expected") not in ("equal", "different"):
            raise ValueError(f"{path}:{number}: 'expected' must be equal or different, not {row.get('expected')!r}")
        rows.append(row)
    return rows


def golden_rows() -> list[dict[str, Any]]:
    """The labelled answers of `golden_check_answer.jsonl` that must hold, by category."""
    lines = (CASES / "golden_check_answer.jsonl").read_text(encoding="utf-8").splitlines()
    names = {"relaxed_accuracy": "chartqa", "anls": "docvqa"}
    return [
        {
            "id": row["id"],
            "answer": row["gt"],
            "candidate": row["pred"],
            "dataset": names.get(row["mode"][0], "") if len(row["mode"]) == 1 else "",
            "expected": "equal" if row["expected"] else "different",
            "kind": row["category"],
        }
        for row in map(json.loads, lines)
        if row["tier"] == "must"
    ]


def to_question(row: dict[str, Any]) -> Question:
    """The row as the checker takes it."""
    predicted = row.get("candidate")
    if predicted is None:
        predicted = parse_answer(row["response"], row.get("prompt_version", "en"))
    context = {name: row[name] for name in ("question", "options") if name in row}
    return Question(predicted, row["answer"], modes_for_dataset(row.get("dataset", "")), **context)


def ours(questions: Sequence[Question]) -> Iterable[Outcome]:
    """The outcomes of the project's checker."""
    with AnswerChecker() as checker:
        for verdict in checker.check_many(questions):
            yield verdict.outcome


def math_verify_alone(questions: Sequence[Question]) -> Iterable[Outcome]:
    """The outcomes of math-verify as its documentation uses it, on each accepted answer."""
    for question in questions:
        asked = question.predicted
        predicted = asked.text if isinstance(asked, ParsedAnswer) else asked
        if predicted is None:
            yield Outcome.FORMAT_ERROR
            continue
        found = parse(predicted)
        right = any(verify(parse(gold), found) for gold in accepted_texts(question.gold))
        yield Outcome.CORRECT if right else Outcome.WRONG


def compare(rows: Sequence[dict[str, Any]], judge: Judge) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts by kind, and a line for each row that does not agree."""
    counts: dict[str, Counter[str]] = {}
    failures = []
    for row, outcome in zip(rows, judge([to_question(row) for row in rows]), strict=True):
        result = judged(row["expected"] == "equal", outcome)
        counts.setdefault(row.get("kind", ""), Counter()).update(("rows", result))
        if result != "agree":
            shown = row.get("candidate", row.get("response", ""))
            failures.append(
                f"{result:12} {row.get('id', '')} {row.get('kind', '')}: {shown[-60:]!r} / {row['answer']!r}"
            )
    return counts, failures


def judged(equal: bool, outcome: Outcome) -> str:
    """How an outcome stands to the label."""
    if outcome is Outcome.UNDECIDED:
        return "undecided"
    correct = outcome is Outcome.CORRECT
    return "agree" if correct == equal else "false accept" if correct else "false reject"


def figures_of(counts: dict[str, Counter[str]]) -> dict[str, Any]:
    """Counts in all and by kind, as JSON values."""
    total = sum(counts.values(), Counter())
    by_kind = {kind: {name: count[name] for name in COLUMNS if count[name]} for kind, count in sorted(counts.items())}
    share = round(total["agree"] / max(1, total["rows"]), 4)
    return {**{name.replace(" ", "_"): total[name] for name in COLUMNS}, "agreement": share, "by_kind": by_kind}


def main() -> None:
    """Judge the rows of all files by both; write the figures of the project's own, print those of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", help="row files; without, the project's own")
    parser.add_argument("--failures", action="store_true", help="print each row that does not agree")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify's own, one for each answer without mathematics
    sets = {path.name: read_rows(path) for path in args.files or [CASES / name for name in OWN_FILES]}
    if not args.files:
        sets["golden_check_answer.jsonl, must"] = golden_rows()
    results: dict[str, Any] = {}
    for name, rows in sets.items():
        for title, judge in (("checker", ours), ("math-verify", math_verify_alone)):
            counts, failures = compare(rows, judge)
            figures = figures_of(counts)
            results.setdefault(name, {})[title] = figures
            print(name, title, *(f"{key} {value}" for key, value in figures.items() if key != "by_kind"))
            if args.failures and judge is ours:
                print(*failures, sep="\n")
    if not args.files:
        write_results("answer_agreement", results)


if __name__ == "__main__":
    main()
