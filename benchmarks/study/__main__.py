"""The paper in miniature: base, SFT, DPO, DPO+, BCO and MPO on the same pairs, over several seeds.

    python -m benchmarks.study                                  the core table, five seeds
    python -m benchmarks.study --arms core extended --seeds 5   all arms, as long as it takes

Each seed has its own pictures, questions, samples, order of training and held-out questions; all arms of a seed share
them, so arms are compared seed by seed. A stopped study goes on where it stopped, and seeds can run side by side
(`--seeds 0 2`, `--seeds 2 5`, each with `--result ""`) before one call without flags gathers them. Figures go to
benchmarks/results/study.json, tables and plots from there by `python -m benchmarks.study.report`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import write_results
from benchmarks.study.arms import ARMS, CORE
from benchmarks.study.measures import compare_answers, evaluation_of
from benchmarks.study.settings import Settings
from benchmarks.study.stages import measure_base, prepare, run_arm
from benchmarks.study.statistics import summarize

CURVES = ("step", "loss", "nll_loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
GROUPS = {"core": CORE, "extended": tuple(name for name in ARMS if name not in CORE)}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", type=Path, default=Path("ckpt/tiny-base"), help="checkpoint that all arms start from")
    add("--out", type=Path, default=Path("work_dirs/study"), help="folder of all runs")
    add("--arms", nargs="+", default=["core"], choices=[*GROUPS, *ARMS], help="groups or single arms")
    add("--seeds", type=int, nargs="+", default=[5], help="how many, or from which to below which")
    add("--prompts", type=int, default=1600, help="questions that the base samples answers to")
    add("--held_out", type=int, default=500, help="held-out questions of a seed")
    add("--samples", type=int, default=8, help="answers to each")
    add("--pairs_per_prompt", type=int, default=2)
    add("--steps", type=int, default=200, help="of 24 pairs")
    add("--learning_rate", type=float, default=1.5e-4)
    add("--result", default="study", help="name of the file in benchmarks/results; empty for none")
    return parser.parse_args(argv)


def study(args: argparse.Namespace) -> dict[str, Any]:
    """Run what is not there yet; returns per seed the figures of the base and of every arm."""
    names = ("base", "out", "prompts", "held_out", "samples", "pairs_per_prompt", "steps", "learning_rate")
    settings = Settings(**{name: getattr(args, name) for name in names})
    arms = list(dict.fromkeys(arm for name in args.arms for arm in GROUPS.get(name, (name,))))
    runs: dict[str, dict[str, Any]] = {}
    for seed in range(*args.seeds):
        prepare(settings, seed)
        measure_base(settings, seed)
        for name in arms:
            print(f"seed {seed}, {name}: {run_arm(settings, seed, name)}", flush=True)
        runs[str(seed)] = collect(settings, seed)
    shown = {name: value for name, value in asdict(settings).items() if name not in ("base", "out")}
    curves = read_curves(settings, range(*args.seeds)[0])
    return {"settings": shown, "runs": runs, "summary": summarize(runs), "curves": curves}


def collect(settings: Settings, seed: int) -> dict[str, Any]:
    """All finished arms of a seed, whichever call ran them, each tested against the base and core arms before it."""
    folder = settings.folder(seed)
    found = {"base": json.loads((folder / "base.json").read_text(encoding="utf-8"))}
    evaluations = {"base": evaluation_of(settings.base, folder)}
    for name in ARMS:
        run = settings.run_of(seed, name)
        if run.with_suffix(".json").is_file():
            parts = (run.with_suffix(suffix) for suffix in (".json", ".train.json"))
            measured, trained = (json.loads(part.read_text(encoding="utf-8")) for part in parts)
            evaluations[name] = evaluation_of(run, folder)
            others = [other for other in found if other in ("base", *CORE)]
            tests = {other: compare_answers(evaluations[name], evaluations[other]) for other in others}
            found[name] = {**trained, **measured, "against": tests}
    return found


def read_curves(settings: Settings, seed: int) -> dict[str, dict[str, list[float]]]:
    """What the arms of one seed logged: arm -> quantity -> values."""
    found = {}
    for name in ARMS:
        path = settings.run_of(seed, name) / "trainer_state.json"
        if path.is_file():
            log = json.loads(path.read_text(encoding="utf-8"))["log_history"]
            entries = [entry for entry in log if "loss" in entry]
            found[name] = {key: [round(entry[key], 4) for entry in entries if key in entry] for key in CURVES}
    return found


if __name__ == "__main__":
    arguments = parse_arguments()
    figures = study(arguments)
    if arguments.result:
        command = " ".join(["python -m benchmarks.study", *sys.argv[1:]])
        write_results(arguments.result, {"command": command, **figures})
