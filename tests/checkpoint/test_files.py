"""A checkpoint gets its name in one step, or at the next start; a kill in between loses nothing."""

from pathlib import Path

import pytest

from internvl_chat.checkpoint.files import checksums, damage, finish_publishing, publish
from internvl_chat.checkpoint.resume import last_whole_checkpoint
from internvl_chat.training import check_named


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def written(run, step, content):
    fresh = run / "saving" / f"checkpoint-{step}"
    (fresh / "resume").mkdir(parents=True)
    (fresh / "resume" / "state").write_text(content)
    return fresh


def save(run, step, content):
    fresh = written(run, step, content)
    publish(fresh, run / fresh.name, checksums(fresh))


@pytest.fixture
def kill_at_rename(monkeypatch):
    """Function that lets so many renames of checkpoints succeed and kills at the next."""
    rename = Path.replace

    def arrange(number):
        left = [number]

        def replace(self, target):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", replace)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize(("renames", "expected"), [(0, "old"), (1, "new")])
def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(tmp_path, kill_at_rename, monkeypatch, renames, expected):
    save(tmp_path, 2, "older")
    save(tmp_path, 4, "old")
    kill_at_rename(renames)
    with pytest.raises(Killed):
        save(tmp_path, 4, "new")
    monkeypatch.undo()
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert (tmp_path / "checkpoint-4/resume/state").read_text() == expected


def test_the_old_one_gets_its_name_back_where_the_new_one_is_damaged(tmp_path, kill_at_rename, monkeypatch):
    save(tmp_path, 4, "old")
    kill_at_rename(1)
    with pytest.raises(Killed):
        save(tmp_path, 4, "new")
    monkeypatch.undo()
    (tmp_path / "saving/checkpoint-4/resume/state").write_text("torn")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert (tmp_path / "checkpoint-4/resume/state").read_text() == "old"


def test_a_whole_checkpoint_that_had_no_name_yet_gets_it(tmp_path, kill_at_rename, monkeypatch, caplog):
    save(tmp_path, 2, "first")
    kill_at_rename(0)
    with pytest.raises(Killed):
        save(tmp_path, 4, "second")
    monkeypatch.undo()
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert "checkpoint-4: a kill came while this checkpoint got its name" in caplog.text


def test_an_unfinished_checkpoint_gets_no_name(tmp_path):
    save(tmp_path, 2, "first")
    written(tmp_path, 4, "second")
    finish_publishing(tmp_path)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-4").exists()


def test_a_checkpoint_that_is_named_by_its_user_is_finished_too(tmp_path, kill_at_rename, monkeypatch):
    save(tmp_path, 4, "old")
    kill_at_rename(1)
    with pytest.raises(Killed):
        save(tmp_path, 4, "new")
    monkeypatch.undo()
    check_named(tmp_path / "checkpoint-4", 0, 1)
    assert damage(tmp_path / "checkpoint-4") is None


def test_all_of_it_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """Folders too: a file whose name is not on the disk is lost with the power."""
    synced = []
    monkeypatch.setattr("internvl_chat.checkpoint.files.sync", lambda path: synced.append(path.name))
    monkeypatch.setattr("internvl_chat.records.durable.sync", lambda path: synced.append(path.name.split(".")[0]))
    save(tmp_path, 4, "x")
    assert synced == ["resume", "checksums", "checkpoint-4", tmp_path.name]
