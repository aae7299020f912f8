"""One run at a time in an output folder."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from internvl_chat.checkpoint import lock
from internvl_chat.checkpoint.lock import LOCK_NAME, FolderInUse, locked


def test_the_second_is_told_who_the_first_is_and_gets_in_after_it(tmp_path):
    with locked(tmp_path):
        words = f"in use by the run of process {os.getpid()} on host {re.escape(socket.gethostname())}, since 20"
        with pytest.raises(FolderInUse, match=words), locked(tmp_path):
            pass
        with pytest.raises(FolderInUse, match=words), locked(tmp_path):  # a refusal leaves the lock as it was
            pass
    with locked(tmp_path):
        pass


def test_a_job_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with locked(tmp_path), pytest.raises(FolderInUse, match=", job 4711, since"), locked(tmp_path):
        pass


def test_an_error_in_the_run_gives_the_folder_free(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("left", ["", "no JSON", '{"host": "gone", "pid": 1}', json.dumps({"host": "elsewhere"})])
def test_what_a_dead_run_left_in_the_file_is_no_obstacle(tmp_path, left):
    (tmp_path / LOCK_NAME).write_text(left)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_an_owner_that_cannot_be_read_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WRITTEN_AFTER_S", 0)
    with locked(tmp_path):
        (tmp_path / LOCK_NAME).write_text("torn")
        with pytest.raises(FolderInUse, match="in use by another run: wait, stop it"), locked(tmp_path):
            pass


HOLDS = """
import multiprocessing, sys, time
from pathlib import Path
from internvl_chat.checkpoint.lock import locked
with locked(Path(sys.argv[1])):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    print(worker.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.integration
def test_a_killed_run_gives_the_folder_free_although_its_data_loader_lives_on(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(run.stdout.readline())
    try:
        with pytest.raises(FolderInUse, match=f"process {run.pid} "), locked(tmp_path):
            pass
        run.kill()
        run.wait()
        os.kill(worker, 0)  # is alive
        with locked(tmp_path):
            pass
    finally:
        run.kill()
        os.kill(worker, 9)


def test_only_the_first_rank_locks_and_the_others_hear_of_it(tmp_path, monkeypatch):
    with locked(tmp_path, rank=1):
        assert not (tmp_path / LOCK_NAME).exists()
    monkeypatch.setattr(lock, "gather_objects", lambda item: ["in use by the first", item])
    with pytest.raises(FolderInUse, match="in use by the first"), locked(tmp_path, rank=1):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        assert "cannot be locked" in caplog.text and "no second run" in caplog.text


def test_a_run_that_is_just_ending_is_no_obstacle(tmp_path, monkeypatch):
    """Its name is gone already when the second looks for it, and the lock at the next look."""
    first = locked(tmp_path)
    first.__enter__()
    (tmp_path / LOCK_NAME).write_text("")
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: first.__exit__(None, None, None))
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
