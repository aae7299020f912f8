"""A server of a checkpoint that the pipelines, the evaluation and the demo can ask: `shell/serve.sh`, found for you.

    mpo serve work_dirs/mpo
    ENGINE=lmdeploy TP=2 mpo serve work_dirs/mpo

The script is a file of the repository, which a wheel does not have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from internvl_chat.run.entry import enter

SCRIPT = Path(__file__).parents[1] / "shell" / "serve.sh"


def main(argv: Sequence[str] | None = None) -> None:
    """Become the script, or print its head, which tells what can be set.

    Raises:
        FileNotFoundError: this is no clone of the repository.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not SCRIPT.is_file():
        raise FileNotFoundError(
            f"{SCRIPT} is not here: servers are started from a clone of the repository, by shell/serve.sh CHECKPOINT; "
            "or start vLLM or lmdeploy by hand, see docs/clients.md"
        )
    if {"-h", "--help"} & set(words):
        print(head(SCRIPT.read_text(encoding="utf-8")))
        return
    os.execvp("bash", ["bash", str(SCRIPT), *words])


def head(script: str) -> str:
    """The comment that a shell script begins with, without its marks."""
    comment = takewhile(lambda line: line.startswith("#"), script.splitlines()[1:])
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in comment)


if __name__ == "__main__":
    enter(main)
