"""One run at a time in an output folder: a second start ends at once and names the first.

The first rank of a run locks `run.lock` in the folder, an open file that the kernel gives free when the process ends,
however it ends and on whichever host, so that nobody has to clear a lock of a run that was killed. What the file says
(host, process, since when) is for the message alone; the lock decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import FileIO
from pathlib import Path

from internvl_chat.records.durable import NO_LOCKS
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

LOCK_NAME = "run.lock"
WRITTEN_AFTER_S = 0.3  # who has the lock has written its name by then
LOOKS = 3


class FolderInUse(OSError):
    """Another run writes to this output folder; names its host and process."""


@contextmanager
def locked(folder: Path, rank: int = 0) -> Iterator[None]:
    """Hold an output folder for one run; a collective at its begin, the first rank alone holds it.

    Args:
        folder: is there and can be written to.
        rank: of this process.

    Raises:
        FolderInUse: on all ranks; another live run holds it.
    """
    file, refusal = _hold(folder) if rank == 0 else (None, None)
    try:
        if said := gather_objects(refusal)[0]:
            raise FolderInUse(said)
        yield
    finally:
        if file is not None:
            file.truncate(0)
            file.close()


def _hold(folder: Path) -> tuple[FileIO | None, str | None]:
    """The locked file, or why this run may not have it; neither where the file system has no locks."""
    owner = None
    for _ in range(LOOKS):
        file = FileIO(os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in NO_LOCKS:
                logger.warning("%s cannot be locked (%s): see to it that no second run starts in it", folder, error)
                return None, None
        else:
            _sign(file)
            return file, None
        time.sleep(WRITTEN_AFTER_S)
        if owner := _owner(folder):
            break  # where there is no name the other run is about to write it, or has just ended: look again
    return None, f"--output_dir {folder} is in use by {owner or 'another run'}: wait, stop it, or name another folder"


def _sign(file: FileIO) -> None:
    """Write down who holds the lock, and keep it from the processes that this one forks."""
    # A data loader's process lives on for seconds when its run is killed, and must not keep the lock for that long.
    os.register_at_fork(after_in_child=file.close)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "since": now}
    with contextlib.suppress(OSError):  # a full disk, which is told better where a checkpoint does not fit
        file.truncate(0)
        file.write(json.dumps(owner).encode())


def _owner(folder: Path) -> str | None:
    """Who holds the folder, in words; None where the lock does not say."""
    try:
        owner = json.loads((folder / LOCK_NAME).read_text())
        job = f", job {owner['job']}" if owner["job"] else ""
        return f"the run of process {owner['pid']} on host {owner['host']}{job}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None
