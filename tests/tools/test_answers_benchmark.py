"""The benchmark's short form runs, and its mix is the one that it says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_answers

    return bench_answers


def test_the_short_form_runs():
    command = [sys.executable, "benchmarks/bench_answers.py", "--questions", "60"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "mixed",
        "mixed_distinct",
        "no_algebra",
        "no_algebra_distinct",
        "overrun",
    ]
    assert all("'undecided': " in line for line in lines[:4])  # how many depends on how busy the machine is


def test_the_mix_has_32_answers_a_question_and_six_percent_algebra(bench):
    stream = list(bench.questions(2000, 0, algebra=True))
    assert {len(answers) for answers in stream} == {32}
    heavy = [r"\frac" in answers[0].gold for answers in stream]
    formulas = ["x+" in answers[0].gold and "(" in answers[0].gold for answers in stream]
    assert sum(heavy) / len(stream) == pytest.approx(0.015, abs=0.006)
    assert sum(formulas) / len(stream) == pytest.approx(0.045, abs=0.01)


def test_questions_without_algebra_have_none_and_seeds_differ(bench):
    plain = list(bench.questions(200, 0, algebra=False))
    assert not any("\\frac" in answers[0].gold or "x+" in answers[0].gold for answers in plain)
    assert plain != list(bench.questions(200, 1, algebra=False))
    assert plain == list(bench.questions(200, 0, algebra=False))
