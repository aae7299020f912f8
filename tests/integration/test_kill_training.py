"""The benchmark that kills trainings, in its short form: every run that comes to its end is the undisturbed one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_killed_runs_of_one_and_two_processes_end_as_undisturbed_ones():
    command = [sys.executable, "-W", "ignore", "benchmarks/kill_training.py", "--kills", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout)
    assert figures["kills"] == 2
    assert figures["runs equal to the undisturbed one"] == figures["runs"] >= 2
