"""What is offered where a path that somebody typed leads nowhere."""

import os

import pytest

from internvl_chat.records.near_names import did_you_mean, near_name


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a data set."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("train.jsonl", "held_out.jsonl", "meta.json"):
        (tmp_path / "data" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data/trian.jsonl", "data/train.jsonl"),
        ("dat/train.jsonl", "data/train.jsonl"),
        ("data/train.json", "data/train.jsonl"),
        ("data/Train.JSONL", "data/train.jsonl"),
        ("data/heldout.jsonl", "data/held_out.jsonl"),
        ("data/metta.json", "data/meta.json"),
        ("data/validation.jsonl", None),
        ("data/images.jsonl", None),  # a folder of that name is no file
        ("elsewhere/train.jsonl", None),
    ],
)
def test_files(here, typed, meant):
    assert did_you_mean(typed) == (f"; did you mean {meant}?" if meant else "")
    absolute = did_you_mean(str(here / typed))
    assert absolute == (f"; did you mean {here / meant}?" if meant else "")


def test_folders(here):
    assert did_you_mean("data/imgs", is_there=os.path.isdir) == "; did you mean data/images?"
    assert did_you_mean("data/imgs") == ""


def test_the_first_base_counts(here):
    (here / "train.jsonl").touch()
    assert did_you_mean("trian.jsonl", ("data", ".")) == did_you_mean("trian.jsonl") == "; did you mean train.jsonl?"
    (here / "train.jsonl").unlink()
    assert did_you_mean("trian.jsonl", (".", "data")) == "; did you mean train.jsonl?"


def test_images_are_not_guessed_at(here):
    """Rows with `12.png` for `21.png` must not be told that the other picture was meant."""
    assert near_name("data", "trian.jsonl") is None
    assert near_name("data", "TRAIN.jsonl") == "train.jsonl"
