"""What an issue report needs: versions, commit, devices, the attention kernel in use, Slurm, free disk.

    mpo env
    python -m tools.environment

Prints lines that can be pasted as they are. A package that is missing or broken is a line, never the end; of the
environment only the variables of SETTINGS are shown, none of which holds a secret.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from internvl_chat.run.entry import Parser, enter, versions
from internvl_chat.run.provenance import commit_of

ROOT = Path(__file__).parents[1]
GIB = 1024**3
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # names of Linux for what computes in it; the last on ARM
SETTINGS = (
    "CUDA_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "MPO_TRACEBACK",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "SLURM_JOB_ID",
    "WORLD_SIZE",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report."""
    Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    for line in report():
        print(line, flush=True)


def report() -> Iterator[str]:
    """The lines."""
    yield f"commit: {commit(ROOT)}"
    yield from versions()
    yield f"system: {platform.platform()}, {os.cpu_count()} cores, {memory()}"
    yield f"processor: {processor(Path('/proc/cpuinfo'))}"
    yield from devices()
    yield f"slurm: {said_by('srun', '--version') or 'no srun here'}"
    for name, folder in {"this folder": Path.cwd(), "temporary files": Path(os.environ.get("TMPDIR", "/tmp"))}.items():
        yield f"free disk: {free_disk(folder)} for {name}"
    yield from (f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)


def commit(root: Path) -> str:
    """Of the clone, with a mark where files are changed; words where there is none."""
    if not (root / ".git").exists():
        return "installed, no clone"
    changed = said_by("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"{commit_of(root)}{', with changes' if changed else ''}"


def said_by(*command: str) -> str:
    """What a command prints, "" where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def memory() -> str:
    """Of the host, in GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return f"{total:.1f} GiB of memory"


def processor(cpuinfo: Path) -> str:
    """Name of the CPU and what in it computes in bfloat16; as Linux tells."""
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    told = {name.strip(): value.strip() for name, value in fields.items()}
    name = told.get("model name", platform.machine())
    found = set(told.get("flags", told.get("Features", "")).split()) & set(BFLOAT16)
    return f"{name}, bfloat16 by {', '.join(sorted(found)) if found else 'emulation: float32 is faster on it'}"


def devices() -> Iterator[str]:
    """GPUs and what attends to packed rows on them; a line in place of a torch that is missing or does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield f"torch does not load: {error}"
        return
    if not torch.cuda.is_available():
        yield f"devices: none but the CPU (torch built for {torch.version.cuda or 'CPUs'})"
        yield "attention of packed rows: groups of sdpa"
        return
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        yield f"device {number}: {gpu.name}, {gpu.total_memory / GIB:.0f} GiB, capability {gpu.major}.{gpu.minor}"
    driver = said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    yield f"CUDA {torch.version.cuda}, driver {driver[0] if driver else 'unknown'}"
    yield f"attention of packed rows: {packed_kernel()}"


def packed_kernel() -> str:
    """What attends to packed rows in bfloat16 on the first GPU, with the reason where it is not the fast one."""
    try:
        import torch

        from internvl_chat.packed.attention import varlen_refusal
    except (ImportError, OSError) as error:
        return f"unknown, {error}"
    refusal = varlen_refusal(torch.device("cuda", 0), torch.bfloat16)
    return f"groups of sdpa, {refusal}" if refusal else "the varlen kernel of torch"


def free_disk(folder: Path) -> str:
    """GiB that are free where a folder lies."""
    try:
        return f"{shutil.disk_usage(folder).free / GIB:.0f} GiB"
    except OSError as error:
        return f"unknown ({error.strerror})"


if __name__ == "__main__":
    enter(main)
