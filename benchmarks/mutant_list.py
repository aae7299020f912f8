"""The list of mutants: a fault is a file, a text that it has once, and what stands there instead.

So it stays valid while lines move. `mutants.json` also names the tests of each file, and why a survivor survives:
`equivalent` where no input tells it from the original, `survives` where a test would cost more than it is worth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mutant_operators
import xxhash
from mutant_runs import PACKAGES, ROOT

LIST = Path(__file__).with_name("mutants.json")
BY_HAND = ("hole", "by hand")


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
        parts = [mutant.file, mutant.old, mutant.new, tests, texts, *reasons]
        return xxhash.xxh3_64_hexdigest(json.dumps(parts).encode())

    def made_anew(self, files: Sequence[str], each: int, seed: str) -> MutantList:
        """The list with `each` faults made by rule of every file in place of those that were made of it before.

        What is known of one that was made before is kept; those of files without tests in the list are gone.
        """
        before = {(one.file, one.old, one.new): one for one in self.mutants}
        others = [one for one in self.mutants if one.file in self.tests]
        kept = [one for one in others if one.kind in BY_HAND or one.file not in files]
        made = [
            replace(before.get((one.file, one.old, one.new), one), name=one.name) for one in make(files, each, seed)
        ]
        return MutantList(self.tests, kept + made)

    def fitted(self) -> tuple[MutantList, list[Mutant]]:
        """The list with each mutant in the file that has its text now, and those whose text is in none, or in several.

        A file that takes over a mutant takes over the tests of the file that had it.
        """
        texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in sources()}
        tests, mutants, lost = dict(self.tests), list[Mutant](), list[Mutant]()
        for mutant in self.mutants:
            if texts.get(mutant.file, "").count(mutant.old) != 1:
                homes = [name for name, text in texts.items() if text.count(mutant.old) == 1]
                lost += [mutant] if len(homes) != 1 else []
                tests.setdefault(homes[0] if len(homes) == 1 else mutant.file, self.tests[mutant.file])
                mutant = replace(mutant, file=homes[0]) if len(homes) == 1 else mutant
            mutants.append(mutant)
        used = {mutant.file for mutant in mutants}
        return MutantList({name: own for name, own in tests.items() if name in used}, mutants), lost


def sources() -> list[str]:
    """The files of our packages, from the root of the tree."""
    return [str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def make(files: Sequence[str], each: int, seed: str) -> Iterator[Mutant]:
    """Faults made by rule, `each` of every file; the seed and the file alone decide."""
    names: dict[str, int] = {}
    for file in files:
        source = (ROOT / file).read_bytes()
        for edit in mutant_operators.draw(source, each, f"{seed} {file}"):
            name = f"{Path(file).stem}.{edit.function}: {edit.kind}"
            names[name] = names.get(name, 0) + 1
            number = f" {names[name]}" if names[name] > 1 else ""
            yield Mutant(name + number, edit.kind, file, *mutant_operators.as_texts(source, edit))
