"""An evaluation as lines of text: every figure with its interval, behind what it was before where that is known.

python -m tools.evaluation.table work_dirs/improve/round_1/after.json     what an evaluation wrote, once more
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from internvl_chat.model.json_object import read_object
from internvl_chat.run.entry import Parser, enter
from tools.evaluation.comparison import verdict

WAYS = ("reasoned", "direct", "vlmeval")
WRITTEN_BY = "tools/evaluate.py --out writes such files"
CHOICES = {
    "one": "one",
    "majority": "majority",
    "best": "best by critic",
    "weighted": "votes by critic",
    "any": "any right",
}
"""Ways of choosing one of n answers, as `best_of` measures them -> their titles."""
PAIR_FIGURES = ("likelier", "reward_accuracy", "reward_margin")


def read_report(path: Path) -> dict[str, Any]:
    """What an evaluation wrote; FileNotFoundError, ValueError where it is not there or something else."""
    report = read_object(path, WRITTEN_BY)
    if "checkpoint" not in report:
        raise ValueError(f"{path}: no report of an evaluation, it names no checkpoint; {WRITTEN_BY}")
    return report


def table(report: Mapping[str, Any]) -> str:
    """The report of `evaluate` as text."""
    before = report.get("before", {})
    lines = [" -> ".join(found["checkpoint"] for found in (before, report) if found)]
    for way, groups in answered_ways(report):
        for name, found in groups.items():
            earlier = before.get(way, {}).get(name, {})
            lines += _accuracy_lines(f"{way}, {name}", found, earlier)
    for name, found in report.get("probes", {}).items():
        lines += _probe_lines(f"probes, {name}", found, before.get("probes", {}).get(name, {}))
    pairs = report.get("pairs", {})
    lines += [_line(f"pairs, {name}", pairs, before.get("pairs", {}), name) for name in PAIR_FIGURES if name in pairs]
    for way, found in report.get("best_of", {}).items():
        lines += _choice_lines(way, found)
    return "\n".join(lines + list(verdicts(report)))


def find_evaluation(run: Path) -> Path | None:
    """The evaluation that was made of a run: in its folder, or beside it if it names this run."""
    if (run / "evaluation.json").is_file():
        return run / "evaluation.json"
    beside = run.parent / "after.json"
    checkpoint = read_object(beside, WRITTEN_BY).get("checkpoint") if beside.is_file() else None
    return beside if checkpoint and Path(checkpoint).resolve() == run.resolve() else None


def answered_ways(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The ways of asking that a report has, with their groups."""
    for way in WAYS:
        for name in (way, f"{way}_greedy"):
            if name in report:
                yield name, report[name]


def verdicts(report: Mapping[str, Any]) -> Iterator[str]:
    """The paired comparisons of a report in a sentence each."""
    for way, found in report.get("comparison", {}).items():
        yield verdict(way, found)
        if "majority" in found:
            yield verdict(f"{way}, majority", found["majority"])
    for way, found in report.get("best_of", {}).items():
        for name, test in found["tests"].items():
            yield verdict(f"{way}, {name} of {found['samples']}", test)


def _accuracy_lines(title: str, found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    more = f"   {found['correct']} of {found['answers']} right"
    for name in ("format_errors", "undecided"):
        more += f", {found[name]} {name.replace('_', ' ')}" if found[name] else ""
    lines = [_line(title, found, before, "percent", " %") + more]
    if "right_steps" in found:
        lines.append(_line("  every step right", found, before, "right_steps", " %"))
    if "majority" in found:
        voted = found["majority"]
        of = f"majority of {found['answers'] // found['questions']}"
        shown = _line(f"  {of}", voted, before.get("majority", {}), "percent", " %")
        lines.append(f"{shown}   {voted['correct']} of {found['questions']} right, {voted['ties']} ties")
    return lines


def _choice_lines(way: str, found: Mapping[str, Any]) -> list[str]:
    """Accuracies over the number of answers, a line each, and of the most likely answer."""
    lines = [f"  {way}, one of n answers chosen by {found['critic']}, {found['score_by']} of its steps, %:"]
    lines.append(f"  {'n':>5}" + "".join(f"{title:>{len(title) + 3}}" for title in CHOICES.values()))
    for row in found["over"]:
        shown = (f"{row[name]['percent']:>{len(title) + 3}.2f}" for name, title in CHOICES.items())
        lines.append(f"  {row['n']:>5}" + "".join(shown) + ("" if row["votes_exact"] else "   votes of seeded subsets"))
    if "greedy" in found:
        lines.append(_line("  most likely answer", found["greedy"], {}, "percent", " %"))
    if found["unscored"]:
        lines.append(f"    {found['unscored']} answers have no text: they have no score and are chosen last")
    return lines


def _probe_lines(title: str, found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    rates = ", ".join(f"{name} {found[name]:.2f} %" for name in ("precision", "recall", "yes_rate"))
    return [
        _line(title, found, before, "percent", " %")
        + f"   {found['correct']} of {found['questions']} right, {found['unclear']} unclear",
        _line("  F1", found, before, "f1", " %") + f"   {rates}",
    ]


def _line(title: str, found: Mapping[str, Any], before: Mapping[str, Any], name: str, unit: str = "") -> str:
    """Title, what was before, the figure, and its interval."""
    now, earlier = found[name], before.get(name)
    shown = f"{now:8.2f}" if earlier is None else f"{earlier:8.2f} -> {now:.2f} ({now - earlier:+.2f})"
    interval = found.get("interval" if name == "percent" else f"{name}_interval")
    return f"  {title:<24} {shown}{unit}" + (f"  [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Print what evaluations wrote; errors as of `read_report`."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", help="--out of tools/evaluate.py")
    for path in parser.parse_args(argv).reports:
        print(table(read_report(path)))


if __name__ == "__main__":
    enter(main)
