"""All figures that are there, each arm tested against its start and the arms of the same start, question by question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.measures import compare_answers
from benchmarks.study_pretrained.keyed import figures_of, read_figures

Found = dict[str, dict[str, Any]]
WAYS = ("reasoned_greedy", "reasoned", "direct_greedy")
TESTED = ("reasoned_greedy", "reasoned")
RIVALS = ("sft", "dpo")


def gather(work: Path, starts: Mapping[str, Arm], arms: Mapping[str, Arm]) -> dict[str, Any]:
    """The figures of all that was measured in `work`, whichever call did it.

    Returns:
        `starts` and `runs`: name -> its settings and figures, a list for the seeds of a run; `against` holds the paired
        tests of its held-out answers.
    """
    measured = {figures["made_of"]["checkpoint"]: folder for folder, figures in _stages(work, "measured")}
    found = {name: _start(work, name, measured) for name in starts}
    runs = {name: [_run(work, folder, measured) for folder, _ in _stages(work, f"run {name}")] for name in arms}
    return {"starts": found, "runs": {name: of_arm for name, of_arm in runs.items() if of_arm}}
