"""A sample of the malformed inputs through the real entry points, and what the criteria find when they are broken."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_a_sample_of_every_kind_keeps_all_promises():
    command = [sys.executable, "-W", "ignore", "benchmarks/hostile_inputs.py", "--sample", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def test_there_are_enough_cases_of_every_kind_and_entry_point(benchmark):
    cases = benchmark("hostile_inputs").all_cases()
    assert sum(case.outcome != "used" for case in cases) >= 500
    assert {case.entry for case in cases} == set(benchmark("hostile.entries").ENTRIES)


@pytest.fixture
def watch(benchmark):
    return benchmark("hostile.watch")


@pytest.fixture
def case(benchmark):
    return benchmark("hostile.case").Case("row", "x", "train", lambda folder: None, "skipped", "why")


@pytest.fixture
def report(benchmark, watch):
    account = benchmark("hostile.entries").Account(used=[1, 3], skipped={2: "this is why"}, rows=[1, 2, 3])
    return watch.Report(account=account)


def test_a_case_that_ends_as_it_should_breaks_nothing(watch, case, report):
    assert watch.faults(case, report, report) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"seconds": 11.0}, "took 11.0 s"),
        ({"memory_mb": 1500.0}, "took 1500 MB more than a clean input"),
        ({"died": "killed"}, "killed"),
        ({"breaches": ["writes /etc/passwd"]}, "writes /etc/passwd"),
        ({"error": "KeyError", "message": "why", "is_ours": False}, "raised below our code, or of no named kind"),
        ({"error": "ValueError", "message": "no reason"}, "the message has not 'why'"),
        ({"error": "ValueError", "message": "why \x1b[2J"}, "control characters in the message"),
    ],
)
def test_what_ends_otherwise_is_found(watch, case, report, change, found):
    assert found in watch.faults(case, replace(report, **change), report)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"used": [1, 2, 3], "skipped": {}}, "skipped {}, not line 2"),
        ({"used": [1, 3, 3]}, "of [1, 2, 3] used [1, 3, 3], skipped {2: 'this is why'}"),
        ({"used": [1]}, "of [1, 2, 3] used [1], skipped {2: 'this is why'}"),
        ({"foreign": ["another question"]}, "belongs to no row: 'another question'"),
    ],
)
def test_a_row_that_is_lost_doubled_or_replaced_is_found(watch, case, report, change, found):
    assert found in watch.faults(case, replace(report, account=replace(report.account, **change)), report)


def test_a_text_that_became_a_special_token_is_found(watch, case, report):
    used = replace(report.account, used=[1, 2, 3], skipped={}, special_tokens=9)
    text = replace(case, kind="text", outcome="used")
    clean = replace(report, account=replace(used, special_tokens=8))
    assert watch.faults(text, replace(report, account=used), clean) == ["text became special tokens: 9 instead of 8"]


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("open", ("/etc/x", "w", os.O_WRONLY | os.O_CREAT)),
        ("open", ("/run/data/rows.jsonl", "a", None)),
        ("os.remove", ("/run/data/rows.jsonl", -1)),
        ("os.system", (b"id",)),
        ("subprocess.Popen", ("sh", ["sh"], None, None)),
        ("socket.connect", (None, ("127.0.0.1", 9))),
        ("exec", (compile("1", "/run/ckpt/evil.py", "exec"),)),
    ],
)
def test_what_no_input_may_cause_is_a_breach(watch, event, arguments):
    assert watch._breach(event, arguments, ["/run/out"], "/run")


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("open", ("/run/out/x", "w", os.O_WRONLY | os.O_CREAT)),
        ("open", ("/etc/passwd", "r", os.O_RDONLY)),
        ("os.remove", ("/run/out/x", -1)),
        ("socket.connect", (None, "/run/out/socket")),
        ("exec", (compile("1", "/usr/lib/x.py", "exec"),)),
    ],
)
def test_what_a_run_does_anyway_is_none(watch, event, arguments):
    assert not watch._breach(event, arguments, ["/run/out"], "/run")
