"""A real Slurm of two nodes on this machine, for as long as something needs it; its scripts are in tests/slurm."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "tests" / "slurm"


class NoSlurm(RuntimeError):
    """There can be no Slurm here; says why."""


@contextmanager
def lab(folder: Path) -> Iterator[dict[str, str]]:
    """Environment in which `srun` works; installs Debian's packages where it may. Two labs on one machine take turns.

    Args:
        folder: for its state; made when absent.

    Raises:
        NoSlurm: there is none, and it cannot be installed or started.
    """
    if os.geteuid():
        raise NoSlurm("starting a Slurm needs root")
    if not shutil.which("slurmctld") and not shutil.which("apt-get"):
        raise NoSlurm("no Slurm here, and no apt-get to install it with")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RANK", "MASTER"))},
        "SLURM_LAB": str(folder),
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "GPUS": "2",
        "GPUS_PER_NODE": "1",
        "CPUS_PER_TASK": "1",
        "PARTITION": "lab",
    }
    with open(Path(tempfile.gettempdir()) / "slurm-lab.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # they would share ports and hosts
        up = subprocess.run(["bash", SCRIPTS / "slurm_up.sh"], env=environment, capture_output=True, text=True)
        try:
            if up.returncode:
                raise NoSlurm(f"Slurm does not start here: {up.stderr[-300:]}")
            yield {**environment, "SLURM_CONF": f"{folder}/slurm.conf"}
        finally:
            subprocess.run(["bash", SCRIPTS / "slurm_down.sh", "--purge"], env=environment, check=False)
