"""One task of a Slurm job: notes on the shared disk what srun does not tell, which gives only its tasks' highest code.

    python shell/task.py NOTES COMMAND...    NOTES.warned: Slurm sent SIGUSR1, even before COMMAND could listen to it
                                             NOTES.failed: exit code of the task that failed first, not of those it took

Slurm sends its signals to every process of a task: COMMAND gets them itself, and the task ends as COMMAND ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(notes: str, *command: str) -> None:
    """Run a command and end as it ends: with its exit code, or by its signal."""
    signal.signal(signal.SIGUSR1, lambda *_: Path(f"{notes}.warned").touch())
    signal.signal(signal.SIGTERM, lambda *_: None)
    code = subprocess.Popen(command).wait()
    status = code if code >= 0 else 128 - code
    if status:
        with contextlib.suppress(FileExistsError), open(f"{notes}.failed", "x") as file:
            file.write(str(status))
    if status > 128:
        if status - 128 in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(status - 128, signal.SIG_DFL)
        os.kill(os.getpid(), status - 128)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
