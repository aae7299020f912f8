"""A training run as one HTML page: settings, data, curves, evaluation and answers before and after, is it normal?

    python tools/report.py work_dirs/mpo                                   work_dirs/mpo/report.html
    python tools/report.py work_dirs/mpo --evaluation work_dirs/after.json --out report.html

Reads what a run leaves in its output folder: trainer_state.json (or that of its last checkpoint), settings.json,
skipped.jsonl, ledger.json. The evaluation is an --out of tools/evaluate.py made with --before or --against; without
the flag, evaluation.json in the folder or after.json beside it. What is not there is named in its place. The page is
one file without a single external request.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl_chat.model.json_object import read_object
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import parse_row
from internvl_chat.run.entry import Parser, enter
from tools.curves.log import LOG_NAME, read_log
from tools.evaluation.answering import read_answers
from tools.evaluation.run_figures import read_ranges, take_notes
from tools.evaluation.table import find_evaluation, read_report, table, verdicts
from tools.pages.page import Segments, data_uri, mark_differences, render
from tools.pages.pictures import Picture, embed

if TYPE_CHECKING:  # loading it takes longer than anything that --help needs
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_suffix(".html")
SECTIONS = {
    "evaluation": "Before and after",
    "normal": "Is this normal?",
    "curves": "Curves",
    "data": "Data and ledger",
    "settings": "Settings",
    "answers": "Answers",
}
MAX_REASONS = 30  # of skipped rows
PLOT_DPI = 90
MAX_SIDE = 320  # pixels of an embedded picture


@dataclass(frozen=True)
class AnswerView:
    """What the page shows of one question; segments are (text, whether the other answer lacks it)."""

    way: str
    question: str
    gold: str
    pictures: list[Picture]
    before: Segments
    outcome_before: str
    after: Segments
    outcome: str


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("--evaluation", type=Path, help="--out of tools/evaluate.py; default: looked for")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the folder")
    parser.add_argument("--title", default="", help="heading; default: the folder")
    parser.add_argument("--number", type=int, default=8, help="answers shown (default: %(default)s)")
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> Path:
    """Write the page of `args` (of `parse_arguments`); returns its path.

    Raises:
        FileNotFoundError: there is no such run, it has no log, or --evaluation is not there.
        ValueError: its log has no training step.
    """
    entries = read_log(find_log(args.run))
    path = args.evaluation or find_evaluation(args.run)
    evaluation = read_report(path) if path else {}
    answers = read_answers(path.with_suffix(".answers.jsonl")) if path else {}
    settings, ledger = read_json(args.run / "settings.json"), read_json(args.run / "ledger.json")
    settings.pop("starts", None)
    ranges = read_ranges()
    page = render(
        TEMPLATE,
        title=args.title or f"Run {args.run}",
        summary=summarize(entries),
        sections=SECTIONS.items(),
        verdicts=list(verdicts(evaluation)),
        evaluation=table(evaluation) if evaluation else "",
        accuracy_plot=draw_accuracies(evaluation),
        notes=take_notes(entries, ranges),
        origin=ranges.get("origin", "No ranges: benchmarks/results/run_figures.json is not there."),
        **draw(entries),
        mixture=with_ledger(settings.pop("mixture", {}), ledger.pop("data_sets", {})),
        skipped=count_skipped(args.run / "skipped.jsonl"),
        ledger=flatten(ledger),
        settings={group: flatten(values) for group, values in settings.items()},
        answers=choose_answers(answers, args.number),
    )
    out = args.out or args.run / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def find_log(run: Path) -> Path:
    """The folder with the log: the run's own, else its last checkpoint, of a run that is not finished."""
    if (run / LOG_NAME).is_file():
        return run
    checkpoints = [path.parent for path in run.glob(f"checkpoint-*/{LOG_NAME}")]
    return max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), default=run)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, {} where there is no such file; ValueError where it holds something else."""
    return read_object(path, "the training writes it again") if path.is_file() else {}


def summarize(entries: Sequence[Mapping[str, Any]]) -> str:
    """What was run, in a sentence."""
    steps = max(entry["step"] for entry in entries)
    ends = [entry for entry in entries if "train_runtime" in entry]
    if not ends:
        return f"{steps} steps so far; the run is not finished."
    seconds = sum(entry["train_runtime"] for entry in ends)
    return f"{steps} steps in {seconds:,.0f} s, mean loss {ends[-1].get('train_loss', float('nan')):.4g}."


def draw(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The curves as a picture, and the titles of panels that the log has nothing for."""
    from tools.curves.panels import absent_panels, draw_run

    return {"curves": figure_uri(draw_run(entries)), "absent_curves": absent_panels(entries)}


def draw_accuracies(evaluation: Mapping[str, Any]) -> str | None:
    """The accuracies of an evaluation as a picture; None where it has none."""
    from tools.evaluation.plots import plot_accuracies

    found = any(name in evaluation for name in ("reasoned", "direct", "vlmeval", "probes"))
    return figure_uri(plot_accuracies(evaluation)) if found else None


def figure_uri(figure: Figure) -> str:
    """A figure as an embedded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PLOT_DPI)
    return data_uri(buffer.getvalue(), "png")


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
    """The data sets of a mixture, each with what the ledger says became of its rows."""
    unknown = {"used": "", "skipped": "", "times_used": {}}
    return {name: {**part, **ledger.get(name, unknown)} for name, part in mixture.items()}


def flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """(dotted name, text) of every value of nested JSON."""
    if isinstance(value, Mapping):
        items = ((f"{name}.{key}" if name else str(key), inner) for key, inner in value.items())
        return [pair for key, inner in items for pair in flatten(inner, key)]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [(name, text)]


def choose_answers(answers: Mapping[str, Mapping[str, Any]], number: int) -> list[AnswerView]:
    """Up to `number` questions: those that changed first, better ones and worse ones in turn."""
    rows = [row for found in answers.values() for row in found.values()]
    better = [row for row in rows if _change(row) > 0]
    worse = [row for row in rows if _change(row) < 0]
    turns = [row for pair in zip(better, worse, strict=False) for row in pair]
    ordered = [*turns, *better[len(worse) :], *worse[len(better) :], *(row for row in rows if _change(row) == 0)]
    return [view(row) for row in ordered[:number]]


def _change(row: Mapping[str, Any]) -> int:
    """1 where the first answer became right, -1 where it no longer is, else 0."""
    before = row.get("before", row)["outcomes"][0] == "correct"
    return int(row["outcomes"][0] == "correct") - int(before)


def view(row: Mapping[str, Any]) -> AnswerView:
    """Lay out the first answer to one question, and the one before."""
    before = row.get("before")
    one, other = mark_differences(before["responses"][0], row["responses"][0]) if before else ([], [])
    return AnswerView(
        way=row["way"],
        question=row["question"],
        gold=gold_text(row["answer"]),
        pictures=[embed("/", path.lstrip("/"), MAX_SIDE) for path in row["images"]],
        before=one,
        outcome_before=before["outcomes"][0] if before else "",
        after=other or [(row["responses"][0], False)],
        outcome=row["outcomes"][0],
    )


def gold_text(answer: Any) -> str:
    """The right answer, or several, as text."""
    values: Iterable[Any] = answer if isinstance(answer, list) else [answer]
    return " or ".join(map(str, values))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    out = report(parse_arguments(argv))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    enter(main)
