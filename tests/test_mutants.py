"""The mutants: the list fits the tree, faults made by rule are what they say, and a run tells killed from survived."""

import ast
import importlib
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = b'''"""A module."""

LIMIT = 3


def kept(values, *, least=2):
    """Those that are large; at least 2."""
    if not values or len(values) < least:
        raise ValueError(f"{len(values)} values, {least + 1} are needed")
    total = 0.5 * sum(values) - 1
    values.sort(reverse=True)
    return sorted(v for v in values if v is not None and v > -total)
'''
MADE = [
    ("dropped flag", "not values or len(values) < least", "not values"),
    ("dropped flag", "not values", "values"),
    ("comparison", "len(values) < least", "len(values) <= least"),
    ("sign", "0.5 * sum(values) - 1", "0.5 * sum(values) + 1"),
    ("sign", "0.5 * sum(values)", "0.5 / sum(values)"),
    ("constant", "0.5", "1.0"),
    ("constant", "- 1", "- 2"),
    ("dropped call", "values.sort(reverse=True)", "pass"),
    ("constant", "reverse=True", "reverse=False"),
    (
        "dropped call",
        "sorted(v for v in values if v is not None and v > -total)",
        "(v for v in values if v is not None and v > -total)",
    ),
    ("dropped flag", "v is not None and v > -total", "v is not None"),
    ("comparison", "v is not None", "v is None"),
    ("comparison", "v > -total", "v >= -total"),
    ("sign", "-total", "total"),
]


@pytest.fixture(scope="module")
def benchmarks():
    """The modules by name, imported as their scripts import each other."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield {
        name: importlib.import_module(name) for name in ("mutants", "mutant_list", "mutant_operators", "mutant_runs")
    }
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def known(benchmarks):
    return benchmarks["mutant_list"].MutantList.read()


@cache
def meaning(text):
    return ast.dump(ast.parse(text))


def test_the_list_has_what_it_should(known):
    kinds = Counter(mutant.kind for mutant in known.mutants)
    assert len({mutant.name for mutant in known.mutants}) == len(known.mutants) >= 120
    assert kinds["hole"] >= 36
    assert sum(kinds[kind] for kind in ("comparison", "sign", "constant", "dropped call", "dropped flag")) >= 60


def test_every_mutant_fits_the_tree(known, benchmarks):
    """Its text is in its file once, and what takes its place is Python."""
    for mutant in known.mutants:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, (
            f"{mutant.name}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} x"
        )
        changed = benchmarks["mutant_runs"].replaced(text, mutant.old, mutant.new)
        assert meaning(changed) != meaning(text), f"{mutant.name} changes nothing"


def test_the_tests_that_should_kill_are_there(known):
    for test in sorted({test for mutant in known.mutants for test in known.tests_of(mutant)}):
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_the_committed_results_name_every_survivor_with_its_reason(known, benchmarks):
    found = json.loads(benchmarks["mutants"].RESULT.read_text(encoding="utf-8"))
    assert set(found["results"]) <= {mutant.name for mutant in known.mutants}
    assert len(found["results"]) >= 120 and found["killed_share"] >= benchmarks["mutants"].AIM
    reasons = {name: line["reason"] for name, line in found["results"].items() if line["outcome"] != "killed"}
    assert reasons == {one.name: one.equivalent or one.survives for one in known.mutants if one.name in reasons}
    assert all(reasons.values())


def test_faults_made_by_rule(benchmarks):
    """All of a small function, none of its message, its defaults and what is outside."""
    made = benchmarks["mutant_operators"].edits(SOURCE)
    assert {edit.function for edit in made} == {"kept"}
    changed = {(edit.kind, SOURCE[: edit.start] + edit.text + SOURCE[edit.end :]) for edit in made}
    for kind, before, after in MADE:
        assert (kind, SOURCE.replace(before.encode(), after.encode(), 1)) in changed, (before, after)
    assert len(made) == len(MADE)


def test_a_drawing_is_seeded_and_takes_many_kinds_one_a_line(benchmarks):
    draw = benchmarks["mutant_operators"].draw
    drawn = draw(SOURCE, 4, "1 a.py")
    assert drawn == draw(SOURCE, 4, "1 a.py") != draw(SOURCE, 4, "2 a.py")
    assert len(drawn) == 4 and len({SOURCE.count(b"\n", 0, edit.start) for edit in drawn}) == 4


def test_texts_of_a_fault_are_whole_lines_that_are_there_once(benchmarks):
    source = b"def f(a):\n    if a:\n        a += 1\n    else:\n        a += 1\n    return a\n"
    first, second = benchmarks["mutant_operators"].edits(source)
    texts = benchmarks["mutant_operators"].as_texts
    assert texts(source, first) == ("if a:\n        a += 1", "if a:\n        a += 2")
    assert texts(source, second) == ("else:\n        a += 1", "else:\n        a += 2")


TESTS = """
from toy import kept

def test_kept():
    assert kept([1, 2]) == [2, 1]
"""


@pytest.fixture
def bench(benchmarks, tmp_path, monkeypatch):
    """Of a tree with one module and one test."""
    monkeypatch.setattr(benchmarks["mutant_runs"], "PRELOADED", ())
    (tmp_path / "toy.py").write_text(
        "def kept(values):\n    n = 0\n    while n < 1:\n        n += 1\n    return values[::-1]\n"
    )
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "other.py").write_text("")
    return benchmarks["mutant_runs"].Bench(tmp_path)


def test_a_run_tells_killed_from_survived_and_leaves_the_tree_as_it_was(benchmarks, bench):
    Mutant, judge, outcome = (getattr(benchmarks["mutants"], name) for name in ("Mutant", "judge", "outcome"))
    before = (bench.tree / "toy.py").read_text()
    faults = {"[::-1]": "[::1]", "n < 1": "n < 2", "n += 1": "n += 0"}
    lines = []
    for old, new in faults.items():
        mutant = Mutant(new, "by hand", "toy.py", old, new, survives="nobody counts")
        lines.append(outcome(mutant, judge(bench, mutant, ["test_toy.py"], limit=1 if new == "n += 0" else 60)))
    assert [line["outcome"] for line in lines] == ["killed", "survived", "killed"]
    assert lines[0]["by"] == "test_toy.py::test_kept"
    assert lines[1]["reason"] == "nobody counts" and lines[2]["by"] == "the time limit"
    assert (bench.tree / "toy.py").read_text() == before


def test_what_tells_nothing_is_an_error(benchmarks, bench):
    mutants, text = benchmarks["mutants"], "x = 1\n"
    (bench.tree / "other.py").write_text(text)
    unseen = mutants.Mutant("unseen", "by hand", "other.py", "1", "2")
    with pytest.raises(mutants.MutantError, match=r"unseen: test_toy\.py never imported other\.py of the copy"):
        mutants.judge(bench, unseen, ["test_toy.py"], limit=60)
    with pytest.raises(mutants.MutantError, match="unseen: pytest ends with 4"):
        mutants.judge(bench, unseen, ["test_gone.py"], limit=60)
    (bench.tree / "toy.py").write_text("kept = list\n")
    with pytest.raises(mutants.MutantError, match=r"test_toy\.py fail without a mutant"):
        mutants.check_unchanged(bench, ["test_toy.py"], "toy.py", limit=60)
    with pytest.raises(ValueError, match="there 2 times, not once: 'a'"):
        benchmarks["mutant_runs"].replaced("a a", "a", "b")


def test_a_text_that_moved_is_followed_and_one_that_is_gone_is_named(benchmarks, bench, monkeypatch):
    monkeypatch.setattr(benchmarks["mutant_list"], "ROOT", bench.tree)
    monkeypatch.setattr(benchmarks["mutant_list"], "PACKAGES", ("new",))
    (bench.tree / "new").mkdir()
    (bench.tree / "new" / "home.py").write_text("moved = 1\n")
    Mutant, MutantList = (getattr(benchmarks["mutant_list"], name) for name in ("Mutant", "MutantList"))
    moved, gone = (Mutant(name, "by hand", "old.py", f"{name} = 1", f"{name} = 2") for name in ("moved", "gone"))
    fitted, lost = MutantList({"old.py": ["test_toy.py"], "unused.py": []}, [moved, gone]).fitted()
    assert [mutant.file for mutant in fitted.mutants] == ["new/home.py", "old.py"] and lost == [gone]
    assert fitted.tests == {"old.py": ["test_toy.py"], "new/home.py": ["test_toy.py"]}
