"""`mpo serve` becomes shell/serve.sh; where there is no clone it says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import serve

ROOT = Path(__file__).parents[2]


def test_it_becomes_the_script_with_the_words_given():
    environment = {**os.environ, "DRY_RUN": "1", "PYTHON": "python", "TP": "2", "LAUNCHER": "local"}
    words = [sys.executable, "-m", "tools.mpo", "serve", "ckpt/tiny-base", "--seed", "3"]
    printed = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "vllm.entrypoints.openai.api_server" in printed and "--tensor-parallel-size 2" in printed
    assert str(ROOT / "ckpt/tiny-base") in printed and printed.split()[-2:] == ["--seed", "3"]


def test_help_is_the_head_of_the_script(capsys):
    serve.main(["--help"])
    printed = capsys.readouterr().out
    assert "ENGINE=vllm" in printed and "set -euo" not in printed and not printed.startswith("#")


def test_without_a_clone_it_says_how_to(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "SCRIPT", tmp_path / "serve.sh")
    with pytest.raises(FileNotFoundError, match=r"clone.*docs/clients\.md"):
        serve.main(["ckpt/tiny-base"])
