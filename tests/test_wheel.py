"""An installed package has what the checkout has: needs, version, and every file that the code reads beside itself."""

import shutil
import subprocess
import sys
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

import internvl_chat
from internvl_chat.arguments import DEEPSPEED_FOLDER

ROOT = Path(__file__).parents[1]
PARTS = ("internvl_chat", "tools", "shell", "pyproject.toml", "requirements-run.txt", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta; build_meta.build_wheel('wheels')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy: building leaves folders in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, tree)
    (tree / "wheels").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=tree, check=True, capture_output=True)
    [path] = (tree / "wheels").glob("*.whl")
    with ZipFile(path) as file:
        yield file


@pytest.mark.integration
def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    files = [path for folder in ("internvl_chat", "tools") for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += DEEPSPEED_FOLDER.glob("*.json")
    wanted = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert {"tools/plan/model_sizes.json", "shell/deepspeed/zero_stage1_config.json", "tools/pages/base.html"} <= wanted
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == wanted


@pytest.mark.integration
def test_the_wheel_says_what_it_is_and_needs(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    told = message_from_bytes(wheel.read(name))
    lines = (ROOT / "requirements-run.txt").read_text().splitlines()
    assert told["Version"] == internvl_chat.__version__
    assert told["Requires-Python"] == ">=3.11"
    needed = [line for line in told.get_all("Requires-Dist") if "extra ==" not in line]
    assert needed == [line for line in lines if not line.startswith("#")]
