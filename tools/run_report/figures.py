"""Figures of a report as rows of tables: of the log, of an evaluation, of data sets; each as it was written down."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import parse_row
from tools.curves.log import LABELS, curve
from tools.evaluation.table import answered_ways

MAX_REASONS = 30  # of skipped rows
DIGITS = 6  # significant, of figures of the log


@dataclass(frozen=True)
class CurveFigures:
    """First, lowest, highest and last entry of a curve, each (text, step)."""

    name: str
    first: tuple[str, int]
    lowest: tuple[str, int]
    highest: tuple[str, int]
    last: tuple[str, int]


@dataclass(frozen=True)
class Accuracy:
    """One line of an evaluation, as text; `before` and `change` are "" where nothing was before."""

    title: str
    before: str
    after: str
    change: str
    interval: str
    more: str


def curve_figures(entries: Sequence[Mapping[str, Any]]) -> list[CurveFigures]:
    """The curves that a log has, those of evaluations too, in the order of the panels."""
    names = [name for plain in LABELS for name in (plain, f"eval_{plain}")]
    return [_figures(name, *found) for name in names if (found := curve(entries, name))[0]]


def _figures(name: str, steps: list[int], values: list[float]) -> CurveFigures:
    finite = [at for at, value in enumerate(values) if math.isfinite(value)] or [0]
    lowest, highest = min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)
    told = [(f"{values[at]:.{DIGITS}g}", steps[at]) for at in (0, lowest, highest, len(values) - 1)]
    return CurveFigures(name, *told)


def summarize(entries: Sequence[Mapping[str, Any]]) -> str:
    """What was run, in a sentence."""
    steps = max(entry["step"] for entry in entries)
    finished = [entry for entry in entries if "train_runtime" in entry]
    if not finished:
        return f"{steps} steps so far; the run is not finished."
    seconds = sum(entry["train_runtime"] for entry in finished)
    return f"{steps} steps in {seconds:,.0f} s, mean loss {finished[-1].get('train_loss', math.nan):.4g}."


def accuracies(report: Mapping[str, Any]) -> Iterator[Accuracy]:
    """The accuracies of an evaluation, and how its pairs are told apart."""
    before = report.get("before", {})
    for way, groups in [*answered_ways(report), ("probes", report.get("probes", {}))]:
        for name, found in groups.items():
            more = f"{found['correct']} of {found.get('answers', found['questions'])} right"
            parts = {part: found.get(part, 0) for part in ("format_errors", "undecided", "unclear")}
            more += "".join(f", {number} {part.replace('_', ' ')}" for part, number in parts.items() if number)
            yield _accuracy(f"{way}, {name}", found, before.get(way, {}).get(name, {}), more)
    for name in ("likelier", "reward_accuracy", "reward_margin"):
        pairs = report.get("pairs", {})
        if name in pairs:
            shown = {"percent": pairs[name], "interval": pairs.get(f"{name}_interval")}
            earlier = before.get("pairs", {})
            was = {"percent": earlier[name]} if name in earlier else {}
            yield _accuracy(f"pairs, {name.replace('_', ' ')}", shown, was, "")


def _accuracy(title: str, found: Mapping[str, Any], before: Mapping[str, Any], more: str) -> Accuracy:
    now, was, interval = found["percent"], before.get("percent"), found.get("interval")
    return Accuracy(
        title=title,
        before="" if was is None else f"{was:.2f}",
        after=f"{now:.2f}",
        change="" if was is None else f"{now - was:+.2f}",
        interval=f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "",
        more=more,
    )


def count_skipped(path: Path) -> dict[str, int]:
    """How often rows were skipped, by reason, the most frequent first."""
    if not path.is_file():
        return {}
    lines = JsonlFile(path)
    rows = (parse_row(line, str(path), line_no) for line, line_no in (lines[index] for index in range(len(lines))))
    counts = Counter(str(row.get("reason")) for row in rows)
    shown = dict(counts.most_common(MAX_REASONS))
    others = counts.total() - sum(shown.values())
    return {**shown, f"{len(counts) - len(shown)} other reasons": others} if others else shown


def with_ledger(
    mixture: Mapping[str, Mapping[str, Any]], ledger: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The data sets of a mixture, each with what the ledger says became of its rows; times of no row are left out."""
    unknown = {"used": "", "skipped": "", "times_used": {}}
    joined = {name: {**part, **ledger.get(name, unknown)} for name, part in mixture.items()}
    return {
        name: {**part, "times_used": {times: rows for times, rows in part["times_used"].items() if rows}}
        for name, part in joined.items()
    }


def flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """(dotted name, text) of every value of nested JSON."""
    if isinstance(value, Mapping):
        items = ((f"{name}.{key}" if name else str(key), inner) for key, inner in value.items())
        return [pair for key, inner in items for pair in flatten(inner, key)]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [(name, text)]


def start_rows(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One start of a run, of provenance.json, as (name, text)."""
    stages = start.get("seconds", {})
    took = ", ".join(f"{name} {timedelta(seconds=round(seconds))} ({seconds} s)" for name, seconds in stages.items())
    rows = {
        "began": start.get("began", ""),
        "behind step": str(start.get("after_step", 0)),
        "command": start.get("command", ""),
        "commit": start.get("commit", ""),
        "machine": f"{start.get('machine', '')}; {start.get('processes', 1)} processes",
        "versions": ", ".join(start.get("versions", [])),
        "wall time": took or "no stage has ended",
    }
    return list(rows.items())
