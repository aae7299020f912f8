"""The page about a run: read what the folder holds, judge it, lay it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_chat.model.json_object import read_object
from tools.curves.log import read_newest_log
from tools.diagnosis.evidence import Evidence
from tools.diagnosis.rules import RuleOutcome, judge_run
from tools.diagnosis.verdicts import Sign
from tools.evaluation.answering import read_answers
from tools.evaluation.run_figures import model_shape, read_ranges, take_notes
from tools.evaluation.table import find_evaluation, read_report, verdicts
from tools.pages.page import data_uri, render
from tools.run_report import figures
from tools.run_report.answers import choose_answers

TEMPLATE = Path(__file__).with_name("run.html")
SECTIONS = {
    "evaluation": "Before and after",
    "normal": "Is this normal?",
    "curves": "Curves",
    "data": "Data and ledger",
    "provenance": "How it was made",
    "settings": "Settings",
    "answers": "Answers",
}
SIGNS = {Sign.FAULT: ("✗", "look"), Sign.FINE: ("✓", "normal"), Sign.UNKNOWN: ("–", "absent")}


@dataclass(frozen=True)
class PageOptions:
    """What a report is asked for: an evaluation (None: looked for), a heading, how many answers, whether it follows."""

    evaluation: Path | None = None
    title: str = ""
    number: int = 8
    is_live: bool = False


def run_page(run: Path, options: PageOptions, fingerprint: str = "") -> str:
    """The page of a run; a live one carries the fingerprint of the files that it was made of.

    Raises:
        FileNotFoundError: there is no such run, it has no log, or the evaluation is not there.
        ValueError: its log has no training step, or a file is not what its name says.
    """
    entries = read_newest_log(run)
    path = options.evaluation or find_evaluation(run)
    evaluation = read_report(path) if path else {}
    settings, ledger = read_json(run / "settings.json"), read_json(run / "ledger.json")
    judged = judge_run(Evidence(entries, settings, ledger))
    settings.pop("starts", None)
    return render(
        TEMPLATE,
        title=options.title or f"Run {run}",
        is_live=options.is_live,
        fingerprint=fingerprint,
        summary=figures.summarize(entries),
        sections=SECTIONS.items(),
        verdicts=list(verdicts(evaluation)),
        accuracies=list(figures.accuracies(evaluation)),
        checkpoints=[found["checkpoint"] for found in (evaluation.get("before", {}), evaluation) if found],
        accuracy_plot=draw_accuracies(evaluation),
        judged=judged,
        signs=SIGNS,
        health=tell_health(judged),
        **compare(run, entries),
        **draw(entries),
        curve_figures=figures.curve_figures(entries),
        mixture=figures.with_ledger(settings.pop("mixture", {}), ledger.pop("data_sets", {})),
        skipped=figures.count_skipped(run / "skipped.jsonl"),
        ledger=figures.flatten(ledger),
        starts=[figures.start_rows(start) for start in read_json(run / "provenance.json").get("starts", [])],
        settings={group: figures.flatten(values) for group, values in settings.items()},
        answers=choose_answers(read_answers(path.with_suffix(".answers.jsonl")) if path else {}, options.number),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, {} where there is no such file; ValueError where it holds something else."""
    return read_object(path, "the training writes it again") if path.is_file() else {}


def tell_health(views: Sequence[RuleOutcome]) -> str:
    """What the rules come to, in a sentence."""
    faults = [view.rule.name for view in views if view.sign is Sign.FAULT]
    unknown = sum(view.sign is Sign.UNKNOWN for view in views)
    waits = f"; {unknown} cannot be judged yet" if unknown else ""
    if not faults:
        return f"None of {len(views)} rules shows a fault{waits}."
    return f"{len(faults)} of {len(views)} rules show a fault{waits}. Not so: {'; '.join(faults)}."


def compare(run: Path, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """This run beside ours, if its model is of the family and size of theirs."""
    ranges = read_ranges()
    mine, ours = model_shape(run), ranges.get("model", "")
    if not ours or mine != ours:
        return {
            "notes": [],
            "origin": f"Not comparable with our runs: model {mine or 'unknown'}, ours {ours or 'none'}.",
        }
    return {"notes": take_notes(entries, ranges), "origin": ranges["origin"]}


def draw(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The curves as (title, picture, words), and the titles of panels that the log has nothing for."""
    from tools.curves.panels import absent_panels, describe_panel, is_in, panel_svg, run_panels

    panels = [panel for panel in run_panels(entries) if is_in(panel, entries)]
    drawn = [(panel.title, svg_uri(panel_svg(panel, entries)), describe_panel(panel, entries)) for panel in panels]
    return {"curves": drawn, "absent_curves": absent_panels(entries)}


def draw_accuracies(evaluation: Mapping[str, Any]) -> str | None:
    """The accuracies of an evaluation as a picture; None where it has none."""
    from tools.evaluation.plots import plot_accuracies
    from tools.pages.figures import as_svg

    if not any(name in evaluation for name in ("reasoned", "direct", "vlmeval", "probes")):
        return None
    return svg_uri(as_svg(lambda: plot_accuracies(evaluation), "accuracies"))


def svg_uri(text: str) -> str:
    """An SVG document as a URI that holds it."""
    return data_uri(text.encode(), "svg+xml")
