"""`mpo`: every word is a command, its help loads nothing heavy, and what is no word gets the nearest."""

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.door import end_of
from tools import mpo

ROOT = Path(__file__).parents[2]
# Starts each word in turn with --help, and says what each is the first to load of what takes seconds.
HELP = """
import contextlib, io, sys
from tools import mpo
for word in sys.argv[1:]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        mpo.main([word, "--help"])
    assert len(printed.getvalue().splitlines()) > 5, word
    heavy = {"torch", "transformers.modeling_utils", "sympy", "scipy.stats"} & sys.modules.keys()
    assert not heavy, (word, heavy)
"""


@pytest.mark.parametrize("word", mpo.WORDS)
def test_a_word_names_a_module_that_is_there(word):
    module, sentence = mpo.WORDS[word]
    assert find_spec(module) and "main" in Path(find_spec(module).origin).read_text()
    assert sentence and len(sentence) < 72


def test_no_help_loads_torch():
    subprocess.run([sys.executable, "-c", HELP, *mpo.WORDS], cwd=ROOT, check=True)


def test_without_a_word_all_are_listed_with_a_line(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert end_of(mpo.main, *words, program="mpo") == 0
        printed = capsys.readouterr().out
        for word, (_, sentence) in mpo.WORDS.items():
            assert f"  {word} " in printed and sentence in printed


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("evalute", "evaluate"), ("pair", "pairs")])
def test_an_unknown_word_gets_the_nearest(typed, meant, capsys):
    assert end_of(mpo.main, typed, program="mpo") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mpo: {typed} is no command; did you mean {meant}") and "mpo --help" in said


def test_a_word_far_from_all_gets_the_list(capsys):
    assert end_of(mpo.main, "qqqq", program="mpo") == 2
    assert "did you mean" not in (said := capsys.readouterr().err) and "mpo --help" in said


def test_flags_reach_the_command_and_mistakes_bear_its_name(capsys):
    assert end_of(mpo.main, "merge", "--adaptor", "x", program="mpo") == 2
    said = capsys.readouterr().err
    assert said.startswith("mpo merge: ") and "--adapter" in said
    assert end_of(mpo.main, "serve", "--help", program="mpo") == 0
    assert "ENGINE=vllm" in capsys.readouterr().out


def test_a_command_that_fails_ends_with_its_code_under_its_word(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    assert end_of(mpo.main, "merge", "--adapter", nowhere, "--out", tmp_path / "out", program="mpo") == 2
    assert capsys.readouterr().err.startswith(f"mpo merge: {nowhere}")


def test_versions_are_told_with_and_without_a_word(capsys):
    for words in (["--version"], ["version"], ["train", "--version"]):
        assert end_of(mpo.main, *words, program="mpo") == 0
        assert "transformers 5" in capsys.readouterr().out


def test_the_package_installs_the_command():
    [(name, target)] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items()
    module, function = target.split(":")
    assert name == "mpo" and callable(getattr(import_module(module), function))


def test_every_entry_of_the_tools_has_a_word():
    """But for older names, and for rooms' own small programs."""
    entries = {f"tools.{path.stem}" for path in (ROOT / "tools").glob("*.py")}
    entries |= {f"{mpo.PIPELINES}.{path.stem}" for path in (ROOT / "tools/reasoning_data_pipeline").glob("*.py")}
    assert entries - {module for module, _ in mpo.WORDS.values()} == {"tools.mpo"}
