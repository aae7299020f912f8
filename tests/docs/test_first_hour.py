"""The first hour on a laptop, followed literally: every `mpo` command of the guide, one after the other."""

import re
import shlex
from pathlib import Path

import pytest

from tests.door import end_of
from tools import mpo

ROOT = Path(__file__).parents[2]
BLOCKS = re.compile(r"^```bash\n(.*?)^```", re.S | re.M)
GUIDES = sorted((ROOT / "docs").glob("first_hour_*.md"))


def commands(page):
    return [line for block in BLOCKS.findall(page.read_text()) for line in block.splitlines() if line]


@pytest.mark.integration
def test_the_laptop_s_commands_run_as_they_stand(tmp_path, monkeypatch):
    """But for installing, the quickstart, which CI runs by itself, and the demo, which waits for a browser."""
    for name in ("ckpt", "examples", "internvl_chat", "shell", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = [line for line in commands(ROOT / "docs/first_hour_laptop.md") if line.startswith("mpo ")]
    assert [line.split()[1] for line in run] == ["env", "validate", "view", "train", "report", "demo"]
    for line in run[:-1]:
        assert end_of(mpo.main, *shlex.split(line)[1:], program="mpo") == 0, line
    for made in ("validation/validation.html", "work_dirs/own_rows.html", "work_dirs/own_rows/report.html"):
        assert (tmp_path / made).is_file(), made
    assert (tmp_path / "work_dirs/own_rows/model.safetensors").is_file()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_begins_with_the_installation(page):
    assert commands(page)[1:4] == ["make install", "source .venv/bin/activate", "mpo env"]


def test_there_is_a_guide_per_kind_of_user():
    assert [page.stem for page in GUIDES] == ["first_hour_cluster", "first_hour_gpu", "first_hour_laptop"]
