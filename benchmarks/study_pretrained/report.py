"""The study's figures as tables.

    python -m benchmarks.study_pretrained.report      from benchmarks/results/study_pretrained.json

Prints the tables that docs/study_pretrained.md shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.study.report import as_table
from benchmarks.study_pretrained.conditions import RIVALS
from benchmarks.study_pretrained.gather import seed_of
from tools.evaluation.falls import RUN_LEVEL

REASONED, DIRECT = "reasoned", "direct"
NOTHING = ""
CPU = "CPU"  # the column: a start made on another is another one, with the same settings
ACCURACIES = {
    "greedy, %": ("greedy", REASONED, "templates"),
    "held-out kinds": ("greedy", REASONED, "kinds"),
    "direct": ("greedy", DIRECT, "templates"),
    "sampled": ("sampled", REASONED, "templates"),
}
STEPS = {"steps true": "true_steps", "steps right": "right_steps"}

Row = Mapping[str, Any]


def tables(figures: Mapping[str, Any]) -> list[list[str]]:
    """The starts; seeds and runs against start, SFT, DPO; what else changed; looks at watched runs; pictures."""
    runs = figures["runs"]
    found = [start_table(figures["starts"]), seed_table(figures["seeds"]), sign_table(runs), price_table(runs)]
    return [*found, *map(watch_table, watched(runs)), picture_table(figures["pictures"])]


def start_table(starts: Sequence[Row]) -> list[str]:
    """What each start can do, in percent with intervals."""
    rows = [[row["title"], *accuracies(row), *steps(row), maker(row)] for row in starts]
    return as_table(["start", *ACCURACIES, *STEPS, CPU], rows)


def seed_table(arms: Sequence[Row]) -> list[str]:
    """Points by which the mean of several seeds is above the start, SFT and DPO, and those of each seed."""
    rows = []
    for row in sorted(arms, key=lambda row: -row["against"]["start"]["difference"]):
        tests = [row["against"][name] for name in ("start", *RIVALS)]
        each = [", ".join(f"{points:+.1f}" for points in test.get("points", ())) for test in tests]
        cells = [f"{points_of(test)}; {one}" if test else NOTHING for test, one in zip(tests, each, strict=True)]
        rows.append([row["title"], str(len(row["seeds"])), *cells])
    return as_table(["run", "seeds", *(f"above {name}; each" for name in ("the start", "SFT", "DPO"))], rows)


def sign_table(runs: Sequence[Row]) -> list[str]:
    """Points by which each run is above its start, and above SFT and DPO from it, best first."""
    rows = []
    for row in sorted(runs, key=gain, reverse=True):
        compared = [("start", "greedy"), ("start", "sampled"), *((rival, "greedy") for rival in RIVALS)]
        tests = [difference(row, other, use) for other, use in compared]
        pairs = row["pairs"]
        rows.append([row["title"], seed_of(row), f"{pairs['pairs']} of {pairs['questions']}", *tests, maker(row)])
    head = ["run", "seed", "pairs of questions", "greedy", "sampled", "greedy, above SFT", "greedy, above DPO", CPU]
    return as_table(head, rows)


def price_table(runs: Sequence[Row]) -> list[str]:
    """Accuracy by way of asking, steps, the general text, and the end of the log."""
    rows = []
    for row in runs:
        logged = [shown(row["end"], name) for name in ("rewards/margins", "rewards/accuracies", "nll_loss")]
        cost = f"{row['greedy']['text_nll']:.3f}"
        rows.append([row["title"], seed_of(row), *accuracies(row), *steps(row), cost, *logged, maker(row)])
    head = ["run", "seed", *ACCURACIES, *STEPS, "text, nats a token", "margin", "reward accuracy", "NLL", CPU]
    return as_table(head, rows)


def watched(runs: Sequence[Row]) -> list[Row]:
    """The runs that were asked questions on their way."""
    return [row for row in runs if "looks" in row]


def watch_table(row: Row) -> list[str]:
    """What a watched run was seen to answer, and whether that was a fall beyond chance."""
    rows = []
    for look in row["looks"]:
        low, high, change = (100 * look[f"eval_accuracy_change{end}"] for end in ("_low", "_high", ""))
        p, level = look["eval_accuracy_p"], look["eval_accuracy_level"]
        gap = [look.get(f"eval_logps/{name}_change", math.nan) for name in ("right", "wrong", "gap")]
        verdict = "fall" if p <= level else "doubt" if p <= RUN_LEVEL else NOTHING
        shown = [f"{100 * look['eval_accuracy']:.1f}", f"{change:+.1f} [{low:+.1f}, {high:+.1f}]", f"{p:.2g}"]
        rows.append([f"{look['step']:.0f}", *shown, f"{level:.2g}", verdict, *(f"{value:+.2f}" for value in gap)])
    head = ["step", "greedy, %", "since the start", "p of a fall", "limit", "verdict", "right", "wrong", "gap, nats"]
    return as_table(head, rows)


def picture_table(rows: Iterable[Row]) -> list[str]:
    """What the start that sees and the runs from it answer about held-out pictures, the start first."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["tasks"], "pairs" in row, row["title"])):
        asked = [accuracy(row[way]["all"]) for way in (REASONED, DIRECT)]
        against = row.get("against", {})
        tests = [points_of(against[other][REASONED]) if other in against else NOTHING for other in ("start", "sft")]
        title = f"{row['title']}, on {' and '.join(row['tasks'])}" if row["tasks"] else row["title"]
        lines.append([title, asked[0], f"{row[REASONED]['all']['right_steps']:.1f}", asked[1], *tests])
    return as_table(["", "step by step, %", "every step right", "direct", "above the start", "above SFT"], lines)


def accuracies(row: Row) -> list[str]:
    """Percent and interval of each of ACCURACIES."""
    return [accuracy(row.get(use, {}).get(way, {}).get(task)) for use, way, task in ACCURACIES.values()]


def accuracy(found: Row | None) -> str:
    """Percent and its interval, where it was measured."""
    return NOTHING if not found else f"{found['percent']:.1f} [{found['interval'][0]:.1f}, {found['interval'][1]:.1f}]"


def steps(row: Row) -> list[str]:
    """Percent of answers with true and with right steps."""
    return [f"{row['greedy'][name]:.1f}" for name in STEPS.values()]


def gain(row: Row) -> float:
    """Points above the start, greedily; of a start that was not measured, below all."""
    test = row["against"]["start"].get("greedy", {}).get(REASONED)
    return test["difference"] if test else -math.inf


def difference(row: Row, other: str, use: str) -> str:
    """Points above another on the same questions, their interval, and p of the paired test."""
    test = row["against"].get(other, {}).get(use, {}).get(REASONED)
    return points_of(test) if test else NOTHING


def points_of(test: Row) -> str:
    """Points of a paired test, their interval, and p."""
    low, high = test["interval"]
    return f"{test['difference']:+.1f} [{low:+.1f}, {high:+.1f}], p {test['p']:.2g}"


def maker(row: Row) -> str:
    """Who made the CPU that a row is of: the first word of its name, "Intel" of "Intel(R) Xeon(R) Processor"."""
    return row.get("cpu", NOTHING).partition("(")[0].partition(" ")[0]


def shown(end: Row, name: str) -> str:
    """A figure of the log, where it has it."""
    return f"{end[name]:.2f}" if name in end else NOTHING


def main() -> None:
    """Print the tables."""
    figures = json.loads((RESULTS / "study_pretrained.json").read_bytes())
    print("\n\n".join("\n".join(table) for table in tables(figures)))


if __name__ == "__main__":
    main()
