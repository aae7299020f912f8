"""What the benchmarks share: the machine and versions behind a figure, side-by-side medians, results as JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow", "orjson")


def describe_machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """CPU, cores, memory in GiB, load, GPU (None without one), system, Python and the versions of `packages`."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "gpu": _gpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        **{name: _version(name) for name in packages},
    }


def interleaved_medians(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function over `rounds` rounds, one call of each per round after an untimed one.

    Taking turns lets a change of the machine's load fall on all of them alike: read the ratios, not the figures.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def call_apart(function: Callable[..., Result], *args: object) -> Result:
    """What a function returns in a new process, whose peak memory and time of CPU are its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A checkout of a commit of this repository, for the time of the block; CalledProcessError where it is unknown."""
    with tempfile.TemporaryDirectory() as name:
        git = ["git", "-C", str(RESULTS.parent), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", name, commit], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run([*git, "remove", "--force", name], check=True)


def output_in(tree: Path, *words: str) -> str:
    """What a Python command prints when it runs on the packages of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def write_results(name: str, figures: Mapping[str, Any]) -> Path:
    """Write figures with the machine and the command to `benchmarks/results/<name>.json`, and print them."""
    script = Path(sys.argv[0])
    started = f"-m benchmarks.{script.parent.name}" if script.name == "__main__.py" else f"benchmarks/{script.name}"
    command = " ".join(["python", started, *sys.argv[1:]])
    text = json.dumps({"command": command, "machine": describe_machine(), **figures}, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    print(text, end="")
    return path


def _cpu_name() -> str:
    """The processor's name; its architecture where the system does not say more."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu_name() -> str | None:
    """Name of the first GPU; None without one or without torch."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
