"""The benchmark of two runs in one output folder, in its short form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_the_first_of_two_runs_ends_well_and_the_second_names_it():
    command = [sys.executable, "-W", "ignore", "benchmarks/two_runs.py", "--tries", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["tries"] == 2
