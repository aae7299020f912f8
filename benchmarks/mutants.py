"""Do the tests notice small faults? Puts one after the other into a copy of the tree and runs the tests of its file.

    python benchmarks/mutants.py run                     # all of mutants.json, writes results/mutants.json; resumable
    python benchmarks/mutants.py run --only trainer      # those whose name has the word
    python benchmarks/mutants.py draw --number 10        # ten drawn anew, for CI; ends with 1 where one is not killed
    python benchmarks/mutants.py make --seed 14 FILE..   # draws faults by rule (`mutant_operators`) for these files
    python benchmarks/mutants.py fit                     # follows texts that moved to another file

A mutant is killed when a test fails or time runs out. Only those run that have no result, or another one's: whose file,
tests or reason changed. This script imports nothing of ours, for its processes are to import what the copy has.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS, describe_machine
from mutant_list import Mutant, MutantList
from mutant_runs import ROOT, Bench, Finding, copy_tree

RESULT = RESULTS / "mutants.json"
AIM = 0.95  # of those that are not equivalent


class MutantError(RuntimeError):
    """A mutant that cannot be judged: its tests fail without it, are not there, or do not import its file."""


def judge(bench: Bench, mutant: Mutant, tests: Sequence[str], limit: float) -> Finding:
    """Run the tests on a mutant.

    Raises:
        MutantError: they did not import the file with the fault, or pytest could not run them.
    """
    finding = bench.run_with(mutant.file, mutant.old, mutant.new, tests, limit=limit)
    if finding.code not in (None, 0, 1, 2):
        raise MutantError(f"{mutant.name}: pytest ends with {finding.code}: {finding.output[-500:]}")
    if finding.code == 0 and not finding.imported:
        raise MutantError(f"{mutant.name}: {', '.join(tests)} never imported {mutant.file} of the copy")
    return finding


def check_unchanged(bench: Bench, tests: Sequence[str], file: str, limit: float) -> None:
    """Run tests without a mutant; MutantError where they fail, for then they tell nothing."""
    finding = bench.run(tests, file, limit=limit)
    if finding.code != 0:
        raise MutantError(f"{' '.join(tests)} fail without a mutant: {finding.output[-2000:]}")


def outcome(mutant: Mutant, finding: Finding) -> dict[str, Any]:
    """The line of the results on a mutant."""
    if finding.code is None:
        verdict = {"outcome": "killed", "by": "the time limit"}
    elif finding.code:
        verdict = {"outcome": "killed", "by": finding.failed}
    elif mutant.equivalent:
        verdict = {"outcome": "equivalent", "reason": mutant.equivalent}
    else:
        verdict = {"outcome": "survived", "reason": mutant.survives or "not known"}
    return {"kind": mutant.kind, "file": mutant.file, **verdict, "seconds": finding.seconds}


def run(known: MutantList, mutants: Sequence[Mutant], done: dict[str, Any], limit: float) -> Iterator[str]:
    """Judge what `done` has no current result of, and put it there; yields the name of each that was judged."""
    digests = {mutant.name: known.digest(mutant) for mutant in mutants}  # of the tree as it is copied
    left = [mutant for mutant in mutants if done.get(mutant.name, {}).get("digest") != digests[mutant.name]]
    checked: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(copy_tree(Path(folder).resolve()))
        for mutant in sorted(left, key=known.tests_of):
            tests = known.tests_of(mutant)
            if unchecked := [test for test in tests if checked.isdisjoint({test, test.partition("::")[0]})]:
                check_unchanged(bench, unchecked, mutant.file, limit)
                checked.update(unchecked)
            finding = judge(bench, mutant, tests, limit)
            done[mutant.name] = {**outcome(mutant, finding), "digest": digests[mutant.name]}
            yield mutant.name


def summary(mutants: Sequence[Mutant], done: dict[str, Any]) -> dict[str, Any]:
    """Numbers of each outcome, and the share that is killed of those that are not equivalent."""
    outcomes = Counter(done[mutant.name]["outcome"] for mutant in mutants if mutant.name in done)
    real = outcomes["killed"] + outcomes["survived"]
    kinds = {kind: Counter[str]() for kind in sorted({mutant.kind for mutant in mutants})}
    for mutant in mutants:
        kinds[mutant.kind][done.get(mutant.name, {}).get("outcome", "not run")] += 1
    return {
        "mutants": len(mutants),
        **outcomes,
        "killed_share": round(outcomes["killed"] / real, 4) if real else None,
        "kinds": kinds,
    }


def run_all(known: MutantList, mutants: Sequence[Mutant], limit: float, *, anew: bool) -> int:
    """Judge mutants and write the results after each; 0 where as many are killed as should be."""
    done = json.loads(RESULT.read_text())["results"] if RESULT.is_file() else {}
    kept = {mutant.name for mutant in known.mutants} - {mutant.name for mutant in mutants if anew}
    done = {name: line for name, line in done.items() if name in kept}
    for number, name in enumerate(run(known, mutants, done, limit), 1):
        print(f"{number:4d} {done[name]['outcome']:10s} {done[name]['seconds']:6.1f} s  {name}", flush=True)
        _write(known, done)
    _write(known, done)
    figures = summary(known.mutants, done)
    print(json.dumps(figures, indent=2))
    return int(not figures["killed_share"] or figures["killed_share"] < AIM)


def _write(known: MutantList, done: dict[str, Any]) -> None:
    """Replace the results at once, so that a kill leaves those before."""
    lines = {mutant.name: done[mutant.name] for mutant in known.mutants if mutant.name in done}
    figures = {**summary(known.mutants, done), "machine": describe_machine(), "results": lines}
    partial = RESULT.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(RESULT)


def draw(known: MutantList, number: int, seed: str, limit: float) -> int:
    """Judge some of those that the committed results call killed, drawn by the seed; 1 where one no longer is."""
    results = json.loads(RESULT.read_text())["results"]
    able = [mutant for mutant in known.mutants if results.get(mutant.name, {}).get("outcome") == "killed"]
    drawn = random.Random(seed).sample(able, min(number, len(able)))
    print(f"seed {seed}", flush=True)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(copy_tree(Path(folder).resolve()))
        for mutant in drawn:
            line = outcome(mutant, judge(bench, mutant, known.tests_of(mutant), limit))
            print(f"{line['outcome']:10s} {line['seconds']:6.1f} s  {mutant.name}", flush=True)
            survivors += [] if line["outcome"] == "killed" else [mutant]
    for mutant in survivors:
        print(f"{mutant.name}: {mutant.file} with {mutant.new!r} passes {' '.join(known.tests_of(mutant))}")
    return int(bool(survivors))


def fit(known: MutantList) -> int:
    """Write the list as it fits the tree, and name what does not; 1 where there is any."""
    fitted, lost = known.fitted()
    fitted.write()
    for mutant in lost:
        print(f"{mutant.name}: no file has its text, or several have; it was in {mutant.file}: {mutant.old!r}")
    return int(bool(lost))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("run", "draw", "make", "fit"))
    parser.add_argument("files", nargs="*", help="make: files to make faults of; all that the list names tests of")
    parser.add_argument("--only", default="", help="run: those whose name or file has this word")
    parser.add_argument("--anew", action="store_true", help="run: also those that have a result")
    parser.add_argument("--number", type=int, default=10, help="draw: how many")
    parser.add_argument("--each", type=int, default=2, help="make: how many of each file")
    parser.add_argument("--seed", help="draw, make: decides the choice; draw takes the time unless it is given")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for the tests of a mutant")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    known = MutantList.read()
    if args.task == "draw":
        return draw(known, args.number, args.seed or str(time.time_ns()), args.limit)
    if args.task == "make":
        known.made_anew(args.files or sorted(known.tests), args.each, args.seed or "0").write()
        return 0
    if args.task == "fit":
        return fit(known)
    chosen = [mutant for mutant in known.mutants if args.only in mutant.name or args.only in mutant.file]
    return run_all(known, chosen, args.limit, anew=args.anew)


if __name__ == "__main__":
    sys.exit(main())
