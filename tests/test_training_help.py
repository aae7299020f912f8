"""`--help` of training: every flag of ours once, the Trainer's with their true defaults, nothing heavy loaded."""

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.flags import PreferenceFlags
from internvl_chat.train_mpo import main
from internvl_chat.training_help import GROUPS, OTHER, TRAINER, help_text, wants_help

NAMED = " ".join(GROUPS.values()).split()


def test_every_flag_of_ours_stands_under_one_heading():
    ours = {
        field.name for group in (ModelArguments, DataArguments, PreferenceFlags) for field in dataclasses.fields(group)
    }
    assert {*ours, *TRAINER} - {*NAMED} == set(), "put new flags into GROUPS"
    assert {*NAMED} - {*ours, *TRAINER} == set()
    assert [name for name, count in Counter(NAMED).items() if count > 1] == []


@pytest.mark.parametrize("name", TRAINER)
def test_a_flag_of_the_trainer_has_the_default_that_help_says(name):
    [field] = [field for field in dataclasses.fields(MPOConfig) if field.name == name]
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    assert default == TRAINER[name][0]


def test_the_help_has_headings_flags_and_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no word is broken at a hyphen
    lines = help_text().splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        f"{name}:" for name in GROUPS
    ]
    printed = " ".join(" ".join(lines).split())
    assert "--beta X Strength of the tie to the reference, > 0. (default: 0.1)" in printed
    assert "--max_seq_length N Most tokens" in printed and "--freeze_llm BOOL" in printed
    assert all(f"--{name} " in printed for name in NAMED)


def test_a_flag_without_a_heading_is_printed_all_the_same():
    text = help_text({"first": "meta_path"})
    assert text.index(f"{OTHER}:") < text.index("--beta")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("--help", True), ("-h", True), ("examples/full.yaml --help", True), ("--help all", False), ("--beta 1", False)],
)
def test_what_asks_for_the_short_help(words, wanted):
    assert wants_help(words.split()) is wanted


def test_help_all_lists_the_trainer_s_flags_too(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help", "all"])
    printed = capsys.readouterr().out
    assert "--adam_beta1" in printed and "--beta" in printed
    assert "--adam_beta1" not in help_text()


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom internvl_chat.train_mpo import main\nmain(['--help'])\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
