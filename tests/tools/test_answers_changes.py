"""Changed gold answers are wrong, respelled ones right; the benchmarks that measure it run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = 160


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_no_change_of_a_gold_answer_is_called_correct_and_its_spellings_are(benchmarks):
    from answer_changes import draw_cases
    from bench_answer_changes import measure

    figures, wrong = measure(draw_cases(SAMPLE, seed=17))
    assert figures["gold_answers"] == SAMPLE and figures["changes"] > 4 * SAMPLE
    assert figures["false_accepts"] == 0, [line for line in wrong if line.startswith("false accept")][:5]
    assert figures["respellings_correct"] >= 0.999, wrong[:5]


def test_every_gold_answer_has_many_spellings_and_no_change_is_one_of_them(benchmarks):
    from answer_changes import KINDS, draw_cases, respellings

    cases = list(draw_cases(4 * len(KINDS), seed=5))
    assert len({case.kind for case in cases}) == len(KINDS) >= 30
    for case in cases:
        assert len(set(respellings(case))) >= 30, case
        assert not {case.gold, *case.spellings} & set(case.changes), case
    assert cases == list(draw_cases(4 * len(KINDS), seed=5)) != list(draw_cases(4 * len(KINDS), seed=6))


@pytest.mark.integration
def test_agreement_is_measured_on_any_file(tmp_path):
    rows = [
        {"id": "a", "answer": "5", "candidate": "5.0", "expected": "equal", "kind": "numbers"},
        {"id": "b", "answer": "5", "candidate": "6", "expected": "equal", "kind": "numbers"},
        {"id": "c", "answer": ["4", "5"], "response": "So.\nFinal answer: 5", "expected": "equal", "kind": "lines"},
        {"id": "d", "answer": "A", "candidate": "2/7", "options": ["2/7", "3"], "expected": "different", "kind": "o"},
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "benchmarks/bench_answer_agreement.py", str(tmp_path / "rows.jsonl"), "--failures"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == ("rows.jsonl checker rows 4 agree 2 false_accept 1 false_reject 1 undecided 0 agreement 0.5")
    assert [line.split()[:3] for line in lines[1:3]] == [["false", "reject", "b"], ["false", "accept", "d"]]
    assert lines[3].startswith("rows.jsonl math-verify rows 4")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "5", "expected": "equal"}, "rows.jsonl:1: a row needs"),
        ({"answer": "5", "candidate": "5", "expected": 1}, "must be equal or different, not 1"),
    ],
)
def test_a_row_without_its_fields_is_named(benchmarks, tmp_path, row, reason):
    from bench_answer_agreement import read_rows

    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=reason):
        read_rows(tmp_path / "rows.jsonl")
