"""All figures that are there, each run tested against its start, SFT and DPO from it, question by question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.measures import mean
from benchmarks.study_pretrained.conditions import RIVALS, RIVALS_OF
from benchmarks.study_pretrained.keyed import read_figures, stages_in
from benchmarks.study_pretrained.measures import answers_of, compare
from benchmarks.study_pretrained.other_data import STAGE
from tools.evaluation.answering import read_answers
from tools.evaluation.comparison import paired, share

MEASURED = ("greedy", "sampled")
FLOAT32 = "float32"
COUNTED = ("pairs", "questions", "chosen_true", "chosen_right", "rejected_true_lines")
ALSO = ("looks", "rounding")  # of a stage, as they stand
LAST = 3  # entries of a curve whose mean is shown
SHOWN = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "nll_loss")

Row = dict[str, Any]


def gather(work: Path, starts: Mapping[str, Arm], arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The figures of all that was measured in `work`, whichever call did it, and with which settings.

    Returns:
        `starts`: rows with a title, settings and figures; `runs`: the same with what the pairs were, what the log says
        at the end, and paired tests `against` the start, and against SFT and DPO from it with the same seed;
        `seeds`: arms with several of them, tested by their mean; `easy_vqa`: what became of the questions of others.
        Starts and runs may have `float32`, a test of the same weights in that format against the stored ones.
    """
    measured = {use: measured_in(work, use) for use in MEASURED}
    taught = [row for name, arm in starts.items() for row in _rows(work, f"start {name}", arm, measured)]
    runs = [row for name, arm in arms.items() for row in _rows(work, f"run {name}", arm, measured)]
    folders = {(row["arm"], _origin(row)): row["folder"] for row in runs}
    for row in runs:
        rivals = zip(RIVALS, RIVALS_OF.get(row["arm"].removeprefix("run "), RIVALS), strict=False)
        others = {name: folders.get((f"run {rival}", _origin(row))) for name, rival in rivals}
        row["others"] = {"start": row["made_of"]["start"], **others}
        row["against"] = {name: _tests(row["folder"], other, measured) for name, other in row["others"].items()}
    seeds = [*over_seeds(runs, measured["greedy"])]
    others_asked = [*map(read_figures, stages_in(work, STAGE))]
    return {"starts": taught, "runs": runs, "seeds": seeds, STAGE.replace(" ", "_"): others_asked}


def joined(kept: Mapping[str, Any], found: Mapping[str, Any], order: Sequence[str], cpu: str) -> dict[str, Any]:
    """What was found here, and of an earlier result what is of another machine or not there any more.

    Args:
        kept: the earlier result: of `gather`, with the `machine` that it was made on.
        found: of `gather`, and `pictures`.
        order: names of starts and arms as rows are to follow one another, those that are no more behind them.
        cpu: of this machine. Rows say of which theirs is: the same settings end a little otherwise on another.
    """
    whole, places = dict(found), {name: place for place, name in enumerate(order)}
    for part in ("starts", "runs"):
        earlier = [{"cpu": kept["machine"]["cpu"], **row} for row in kept[part]]
        rows = {(row["folder"], row["cpu"]): row for row in (*earlier, *({"cpu": cpu, **row} for row in found[part]))}
        whole[part] = sorted(rows.values(), key=lambda row: places.get(row["arm"].partition(" ")[2], len(places)))
    arms = {row["arm"] for row in found["seeds"]}
    whole["seeds"] = [*(row for row in kept["seeds"] if row["arm"] not in arms), *found["seeds"]]
    return whole | {part: found[part] or kept[part] for part in ("easy_vqa", "pictures")}


def over_seeds(runs: Sequence[Row], greedy: Mapping[str, Path]) -> Iterator[Row]:
    """Arms that were trained with several seeds, each tested by its greedy answers to the same questions.

    A question counts once: with the share of the seeds that are right, against the same share of what they are tested
    against. So the interval is that of other questions, and the points of each seed say what other seeds may do.
    """
    groups = defaultdict(list)
    for row in runs:
        groups[row["arm"], row["title"], row["made_of"]["start"], row["made_of"]["pairs"]].append(row)
    for (arm, title, *_), found in groups.items():
        rows = sorted(found, key=seed_of)
        if len(rows) > 1:
            against = {name: _pooled(rows, name, greedy) for name in ("start", *RIVALS)}
            yield {"arm": arm, "title": title, "seeds": [*map(seed_of, rows)], "against": against}


def _pooled(rows: Sequence[Row], name: str, greedy: Mapping[str, Path]) -> Row:
    """The test of runs against the others of a name, with the points of each; none where one has no other."""
    others = [row["others"].get(name) for row in rows]
    if None in others or {row["folder"] for row in rows} & {*others}:
        return {}
    now, before = ([_greedy_shares(greedy[one]) for one in ones] for ones in ([row["folder"] for row in rows], others))
    shares = [[mean([answers[key] for answers in found]) for key in now[0]] for found in (before, now)]
    points = [row["against"][name]["greedy"]["reasoned"]["difference"] for row in rows]
    return {**paired([*zip(*shares, strict=True)]), "points": points}


def _greedy_shares(folder: Path) -> dict[str, float]:
    """Question -> share of its answers that are right."""
    return {key: share(row) for key, row in read_answers(answers_of(folder))["reasoned"].items()}


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
