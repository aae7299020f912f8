"""What is written down of how a run came about."""

import json

import pytest

from internvl_chat.run.provenance import RunRecord, commit_of, told_command


def read(folder):
    return json.loads((folder / "provenance.json").read_text())["starts"]


def test_a_start_is_written_at_once_and_its_stages_as_they_end(tmp_path):
    record = RunRecord(tmp_path, step=0, processes=2, is_writer=True)
    [start] = read(tmp_path)
    assert start["seconds"] == {} and start["processes"] == 2 and start["command"]
    assert any(line.startswith("torch ") for line in start["versions"]) and "cores" in start["machine"]
    with record.stage("training"):
        pass
    with pytest.raises(ValueError, match="broken"), record.stage("export"):
        raise ValueError("broken")
    assert list(read(tmp_path)[0]["seconds"]) == ["training", "export"]


def test_a_run_that_goes_on_keeps_its_earlier_starts_and_a_new_one_does_not(tmp_path):
    for step, expected in ((0, [0]), (7, [0, 7]), (0, [0])):
        RunRecord(tmp_path, step=step, processes=1, is_writer=True)
        assert [start["after_step"] for start in read(tmp_path)] == expected
    (tmp_path / "provenance.json").write_text("torn")
    RunRecord(tmp_path, step=9, processes=1, is_writer=True)
    assert [start["after_step"] for start in read(tmp_path)] == [9]


def test_other_ranks_write_nothing(tmp_path):
    with RunRecord(tmp_path, step=0, processes=2, is_writer=False).stage("training"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_tokens_are_left_out_of_the_command():
    words = ["python", "--hub_token", "hf_secret", "--hub_token=hf_secret", "--out", "a b"]
    assert told_command(words) == "python --hub_token ... --hub_token=... --out 'a b'"


def test_a_folder_that_is_no_clone_has_no_commit(tmp_path):
    assert commit_of(tmp_path) == "unknown"


def test_the_commit_is_that_of_a_branch_packed_or_not(tmp_path):
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs\nabc1 refs/heads/maintenance\nabc2 refs/heads/main\n")
    assert commit_of(tmp_path) == "abc2"
    (git / "refs/heads").mkdir(parents=True)
    (git / "refs/heads/main").write_text("abc3\n")
    assert commit_of(tmp_path) == "abc3"
    (git / "HEAD").write_text("abc4\n")
    assert commit_of(tmp_path) == "abc4"
