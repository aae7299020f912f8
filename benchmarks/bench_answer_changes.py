"""Changes of gold answers that must not be called correct, and respellings that must.

    python benchmarks/bench_answer_changes.py                   # 3,200 gold answers, writes results/answer_changes.json
    python benchmarks/bench_answer_changes.py --golds 320       # the short form, prints what went wrong

`answer_changes.py` draws the gold answers. A false accept is a change that is called correct, a false reject a
respelling that is not.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from answer_changes import draw_cases, respellings
from answer_kinds.case import Case
from machine import write_results

from tools.reasoning_data_pipeline.answers import AnswerChecker, Outcome, Question, modes_for_dataset


def measure(cases: Iterable[Case]) -> tuple[dict[str, Any], list[str]]:
    """The counts by kind and in all, and a line for each answer that is judged otherwise than it should."""
    cases = list(cases)
    asked = [(case, text, False) for case in cases for text in case.changes]
    asked += [(case, text, True) for case in cases for text in respellings(case)]
    modes = modes_for_dataset("bench")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    with AnswerChecker() as checker:
        verdicts = checker.check_many(Question(text, case.gold, modes) for case, text, _ in asked)
        for (case, text, equal), verdict in zip(asked, verdicts, strict=True):
            correct = verdict.outcome is Outcome.CORRECT
            counts[case.kind]["respellings" if equal else "changes"] += 1
            if correct != equal:
                fault = "false rejects" if equal else "false accepts"
                counts[case.kind][fault] += 1
                judged = f"{case.kind}; {verdict.outcome}, {verdict.rule}"
                wrong.append(f"{fault[:-1]}: {text!r} / {case.gold!r} ({judged})")
    total: Counter[str] = sum(counts.values(), Counter())
    figures = {
        "gold_answers": len(cases),
        **{
            name.replace(" ", "_"): total[name] for name in ("changes", "false accepts", "respellings", "false rejects")
        },
        "respellings_correct": round(1 - total["false rejects"] / total["respellings"], 5),
        "by_kind": {kind: dict(count) for kind, count in sorted(counts.items())},
    }
    return figures, wrong


def main() -> None:
    """Measure and write the figures, or print them and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", type=int, help="gold answers; without, the 3,200 of the committed result")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other gold answers")
    args = parser.parse_args()
    figures, wrong = measure(draw_cases(args.golds or 3200, args.seed))
    if args.golds:
        print(*wrong, {name: value for name, value in figures.items() if name != "by_kind"}, sep="\n")
    else:
        write_results("answer_changes", figures)


if __name__ == "__main__":
    main()
