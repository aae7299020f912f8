"""The study's figures as tables.

    python -m benchmarks.study_pretrained.report      from benchmarks/results/study_pretrained.json

Prints the tables that docs/study_pretrained.md shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.study.report import as_table
from benchmarks.study_pretrained.gather import RIVAL, seed_of

GREEDY, SAMPLED, DIRECT = "reasoned_greedy", "reasoned", "direct_greedy"
NOTHING = ""

Row = Mapping[str, Any]


def tables(figures: Mapping[str, Any]) -> list[list[str]]:
    """The starts; every run against its start and against SFT; what else it changed and what its log said."""
    return [start_table(figures["starts"]), sign_table(figures["runs"]), price_table(figures["runs"])]


def start_table(starts: Sequence[Row]) -> list[str]:
    """What each start can do, in percent with intervals."""
    rows = [
        [row["title"], *(accuracy(row["figures"], *where) for where in ((GREEDY, "templates"), (SAMPLED, "templates")))]
        + [accuracy(row["figures"], GREEDY, "kinds"), accuracy(row["figures"], DIRECT, "templates"), *steps(row)]
        for row in starts
    ]
    return as_table(["start", "greedy, %", "sampled", "held-out kinds", "direct", "steps true", "steps right"], rows)


def sign_table(runs: Sequence[Row]) -> list[str]:
    """Points by which each run is above its start and above SFT from it, best first."""
    rows = []
    for row in sorted(runs, key=lambda row: -row["figures"][GREEDY]["all"]["percent"]):
        tests = [difference(row, other, way) for other in ("start", RIVAL) for way in (GREEDY, SAMPLED)]
        pairs = row["pairs"]
        rows.append([row["title"], seed_of(row), f"{pairs['pairs']} of {pairs['questions']}", *tests])
    head = ["run", "seed", "pairs of questions", "greedy", "sampled", "greedy, above SFT", "sampled, above SFT"]
    return as_table(head, rows)


def price_table(runs: Sequence[Row]) -> list[str]:
    """Accuracy by way of asking, steps, the general text, and the end of the log."""
    rows = []
    for row in runs:
        found, end = row["figures"], row["end"]
        asked = [accuracy(found, *where) for where in ((GREEDY, "templates"), (GREEDY, "kinds"), (DIRECT, "templates"))]
        logged = [shown(end, name) for name in ("rewards/margins", "rewards/accuracies", "nll_loss")]
        rows.append([row["title"], seed_of(row), *asked, *steps(row), f"{found['text_nll']:.3f}", *logged])
    head = ["run", "seed", "greedy, %", "held-out kinds", "direct", "steps true", "steps right", "text, nats per token"]
    return as_table([*head, "margin", "reward accuracy", "NLL"], rows)


def accuracy(figures: Row, way: str, task: str) -> str:
    """Percent and its interval."""
    found = figures[way].get(task)
    return (
        NOTHING if found is None else f"{found['percent']:.1f} [{found['interval'][0]:.1f}, {found['interval'][1]:.1f}]"
    )


def steps(row: Row) -> list[str]:
    """Percent of answers with true and with right steps."""
    return [f"{row['figures'][name]:.1f}" for name in ("true_steps", "right_steps")]


def difference(row: Row, other: str, way: str) -> str:
    """Points above another on the same questions, their interval, and p of the paired test."""
    test = row["against"].get(other, {}).get(way)
    if test is None:
        return NOTHING
    low, high = test["interval"]
    return f"{test['difference']:+.1f} [{low:+.1f}, {high:+.1f}], p {test['p']:.2g}"


def shown(end: Row, name: str) -> str:
    """A figure of the log, where it has it."""
    return f"{end[name]:.2f}" if name in end else NOTHING


def main() -> None:
    """Print the tables."""
    figures = json.loads((RESULTS / "study_pretrained.json").read_bytes())
    print("\n\n".join("\n".join(table) for table in tables(figures)))


if __name__ == "__main__":
    main()
