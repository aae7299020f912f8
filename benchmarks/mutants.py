"""Do the tests notice small faults? Puts one after the other into a copy of the tree and runs the tests of its file.

    python benchmarks/mutants.py run                     # all of mutants.json, writes results/mutants.json; resumable
    python benchmarks/mutants.py run --only trainer      # those whose name has the word
    python benchmarks/mutants.py draw --number 10        # ten drawn anew, for CI; ends with 1 where one is not killed
    python benchmarks/mutants.py make --seed 14 --each 3 FILE..   # adds faults made by rule (`mutant_operators`)

A mutant is a file, a text that it has once, and what stands there instead: so it stays valid while lines move. It is
killed when a test fails or time runs out. `mutants.json` names the tests of each file, and why a survivor survives:
`equivalent` where no input tells it from the original, `survives` where a test would cost more than it is worth.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mutant_operators
import xxhash
from machine import RESULTS, describe_machine
from mutant_runs import ROOT, Bench, Finding, copy_tree

LIST = Path(__file__).with_name("mutants.json")
RESULT = RESULTS / "mutants.json"
AIM = 0.95  # of those that are not equivalent


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Attributes:
        name: says what is wrong.
        kind: `hole` of the first review by hand, `by hand`, or the operator that made it.
        file: that has the fault, from the root of the tree.
        old: text that the file has once.
        new: what stands there instead.
        tests: that should notice, where not those of the whole file.
        equivalent: why no input tells it from the original, "" where one does.
        survives: why no test notices it, "" where one should.
    """

    name: str
    kind: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""
    survives: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the empty fields, but for `new`."""
        return {name: value for name, value in asdict(self).items() if value or name == "new"}


@dataclass
class MutantList:
    """All mutants, and the tests of the files that they are in."""

    tests: dict[str, list[str]]
    mutants: list[Mutant]

    @classmethod
    def read(cls, path: Path = LIST) -> MutantList:
        """As `write` left it."""
        content = json.loads(path.read_text(encoding="utf-8"))
        mutants = [Mutant(**{**one, "tests": tuple(one.get("tests", ()))}) for one in content["mutants"]]
        return cls(content["tests"], mutants)

    def write(self, path: Path = LIST) -> None:
        """As JSON that is easy to read."""
        content = {"tests": self.tests, "mutants": [mutant.to_json() for mutant in self.mutants]}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def tests_of(self, mutant: Mutant) -> tuple[str, ...]:
        """What should notice it."""
        return mutant.tests or tuple(self.tests[mutant.file])

    def digest(self, mutant: Mutant) -> str:
        """Of the mutant, its file and the texts of its tests: a result with another digest is out of date."""
        reasons = [reason for reason in (mutant.equivalent, mutant.survives) if reason]
        tests = self.tests_of(mutant)
        files = [mutant.file, *sorted({test.partition("::")[0] for test in tests})]
        texts = [(ROOT / file).read_text(encoding="utf-8") for file in files if (ROOT / file).is_file()]
        return xxhash.xxh3_64_hexdigest(
            json.dumps([mutant.file, mutant.old, mutant.new, tests, texts, *reasons]).encode()
        )


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
    left = [mutant for mutant in mutants if done.get(mutant.name, {}).get("digest") != known.digest(mutant)]
    checked: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(copy_tree(Path(folder).resolve()))
        for mutant in sorted(left, key=known.tests_of):
            tests = known.tests_of(mutant)
            if unchecked := [test for test in tests if checked.isdisjoint({test, test.partition("::")[0]})]:
                check_unchanged(bench, unchecked, mutant.file, limit)
                checked.update(unchecked)
            finding = judge(bench, mutant, tests, limit)
            done[mutant.name] = {**outcome(mutant, finding), "digest": known.digest(mutant)}
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
    done = json.loads(RESULT.read_text())["results"] if RESULT.is_file() and not anew else {}
    names = {mutant.name for mutant in known.mutants}
    done = {name: line for name, line in done.items() if name in names}
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
    """Judge some that should be killed, drawn by the seed; 1 where one is not."""
    able = [mutant for mutant in known.mutants if not mutant.equivalent and not mutant.survives]
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


def make(known: MutantList, files: Sequence[str], each: int, seed: str) -> list[Mutant]:
    """Faults made by rule, `each` of every file; what is known of one that was made before is kept."""
    made: list[Mutant] = []
    before = {(one.file, one.old, one.new): one for one in known.mutants}
    for file in files:
        source = (ROOT / file).read_bytes()
        for edit in mutant_operators.draw(source, each, f"{seed} {file}"):
            old, new = mutant_operators.as_texts(source, edit)
            name = f"{Path(file).stem}.{edit.function}: {edit.kind}"
            number = 1 + sum(other.name.startswith(name) for other in made)
            mutant = Mutant(name + (f" {number}" if number > 1 else ""), edit.kind, file, old, new)
            made.append(replace(before.get((file, old, new), mutant), name=mutant.name))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("run", "draw", "make"))
    parser.add_argument("files", nargs="*", help="make: files to make faults of; all that the list names tests of")
    parser.add_argument("--only", default="", help="run: those whose name or file has this word")
    parser.add_argument("--anew", action="store_true", help="run: also those that have a result")
    parser.add_argument("--number", type=int, default=10, help="draw: how many")
    parser.add_argument("--each", type=int, default=3, help="make: how many of each file")
    parser.add_argument("--seed", help="draw, make: decides the choice; draw takes the time unless it is given")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for the tests of a mutant")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    known = MutantList.read()
    if args.task == "draw":
        return draw(known, args.number, args.seed or str(time.time_ns()), args.limit)
    if args.task == "make":
        files = args.files or sorted(known.tests)
        by_hand = ("hole", "by hand")
        others = [one for one in known.mutants if one.file in known.tests]  # not of files that are gone
        kept = [one for one in others if one.kind in by_hand or one.file not in files]
        MutantList(known.tests, kept + make(known, files, args.each, args.seed or "0")).write()
        return 0
    chosen = [mutant for mutant in known.mutants if args.only in mutant.name or args.only in mutant.file]
    return run_all(known, chosen, args.limit, anew=args.anew)


if __name__ == "__main__":
    sys.exit(main())
