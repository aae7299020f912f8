"""Commands as users write them, run in the process of a test: what a launcher would start, without its imports."""

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}


def started_by(command, **settings):
    """The words behind the interpreter, of the processes that a launcher would start: a module and its flags.

    Args:
        command: of the shell, from the root of the repository.
        settings: of the environment, besides DRY_RUN.
    """
    environment = {**PLAIN, **settings, "DRY_RUN": "1", "PYTHON": "true"}
    shown = subprocess.check_output(["bash", "-c", command], cwd=ROOT, env=environment, text=True)
    return shlex.split(re.split(r" -m (?=\w+\.)", shown.splitlines()[0])[-1])


def run_here(words):
    """Run `-m module flags`, `file.py flags` or `module flags`; its exit code, or None for 0."""
    name, *flags = words[1:] if words[0] == "-m" else words
    return importlib.import_module(name.removesuffix(".py").replace("/", ".")).main(flags)
