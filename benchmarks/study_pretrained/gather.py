"""All figures that are there, each run tested against its start and against SFT from it, question by question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.measures import mean
from benchmarks.study_pretrained.conditions import RIVALS
from benchmarks.study_pretrained.keyed import read_figures, stages_in
from benchmarks.study_pretrained.measures import answers_of
from benchmarks.study_pretrained.other_data import STAGE
from tools.evaluation.answering import read_answers
from tools.evaluation.comparison import compare_way

MEASURED = ("greedy", "sampled")
FLOAT32 = "float32"
RIVAL = "sft"
COUNTED = ("pairs", "questions", "chosen_true", "chosen_right", "rejected_true_lines")
ALSO = ("looks", "rounding")  # of a stage, as they stand
LAST = 3  # entries of a curve whose mean is shown
SHOWN = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "nll_loss")

Row = dict[str, Any]


def gather(work: Path, starts: Mapping[str, Arm], arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The figures of all that was measured in `work`, whichever call did it, and with which settings.

    Returns:
        `starts`: rows with a title, settings and figures; `runs`: the same with what the pairs were, what the log says
        at the end, and paired tests `against` the start and against SFT from it with the same seed; `easy_vqa`: what
        became of the questions of others. Either kind of row may have `float32`, a test of the same weights in that
        format against the stored ones.
    """
    measured = {use: measured_in(work, use) for use in MEASURED}
    taught = [row for name, arm in starts.items() for row in _rows(work, f"start {name}", arm, measured)]
    runs = [row for name, arm in arms.items() for row in _rows(work, f"run {name}", arm, measured)]
    folders = {(row["arm"], _origin(row)): row["folder"] for row in runs}
    for row in runs:
        rival = RIVALS.get(row["arm"].removeprefix("run "), RIVAL)
        others = {"start": row["made_of"]["start"], RIVAL: folders.get((f"run {rival}", _origin(row)))}
        row["against"] = {name: _tests(row["folder"], other, measured) for name, other in others.items()}
    return {"starts": taught, "runs": runs, STAGE.replace(" ", "_"): [*map(read_figures, stages_in(work, STAGE))]}


def measured_in(work: Path, use: str) -> dict[str, Path]:
    """Folder name of a checkpoint -> the folder in which it was measured so; the last one where there are several."""
    return {read_figures(folder)["made_of"]["checkpoint"]: folder for folder in stages_in(work, use)}


def _rows(work: Path, name: str, arm: Arm, measured: Mapping[str, Mapping[str, Path]]) -> Iterator[Row]:
    """The stages of a name that were measured at least greedily."""
    for folder in stages_in(work, name):
        if folder.name in measured["greedy"]:
            stage = read_figures(folder)
            row: Row = {"arm": name, "title": arm.title, "folder": folder.name, "made_of": stage["made_of"]}
            if "pairs" in stage["made_of"]:
                row["pairs"] = describe_pairs(work / stage["made_of"]["pairs"])
            figures = {use: read_figures(found[folder.name]) for use, found in measured.items() if folder.name in found}
            row |= {name: stage[name] for name in ALSO if name in stage}
            row |= _in_float32(work, folder.name, measured["greedy"][folder.name])
            yield row | {"end": _end(stage["curve"]), **figures}


def _in_float32(work: Path, name: str, stored: Path) -> dict[str, Any]:
    """Answers of the same weights in float32 against those of the stored ones, where they were measured."""
    found = measured_in(work, FLOAT32).get(name)
    return {FLOAT32: compare(found, stored)} if found else {}


def _tests(one: str, other: str | None, measured: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """Paired tests of two checkpoints, by use and way of asking; none of a checkpoint against itself."""
    found: dict[str, Any] = {}
    for use, folders in measured.items():
        if one in folders and other is not None and other in folders and one != other:
            found[use] = compare(folders[one], folders[other])
    return found


def _origin(row: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """What a run shares with the SFT that it is compared with: the start, the pairs it chose from, the seed."""
    return row["made_of"]["start"], row["pairs"]["source"], seed_of(row)


def seed_of(row: Mapping[str, Any]) -> str:
    """The seed among the flags of a run."""
    return row["made_of"]["flags"].rpartition("--seed ")[2]


def describe_pairs(folder: Path) -> dict[str, Any]:
    """What the pairs of a stage are: their kind, how many of how many questions, and what they teach."""
    counted = read_figures(folder)
    made_of = {"kind": counted["made_of"]["kind"], "source": counted["made_of"].get("pairs")}
    return made_of | {name: value for name, value in counted.items() if name in COUNTED}


def _end(curve: list[dict[str, float]]) -> dict[str, float]:
    """The means of the last entries of a training's log."""
    found = {name: [entry[name] for entry in curve[-LAST:] if name in entry] for name in SHOWN}
    return {name: round(mean(values), 4) for name, values in found.items() if values}


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Paired tests of two measurings on the same questions, by way of asking; `before` is the other."""
    after, before = (read_answers(answers_of(folder)) for folder in (one, other))
    return {way: compare_way(way, before[way], after[way]) for way in after if way in before}
