"""The progress bar of every command: on a terminal as tqdm draws it, in a log once a minute and in plain letters.

    for row in track(rows, desc="rows", unit="row"):

Where nobody looks on, a bar that moves ten times a second is a line of thousands of characters, and under
`srun --label`, which cuts such lines, of broken ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 60.0  # between two states of a bar in a log


def track(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A bar of tqdm.

    Args:
        items: gone over; None for one that is moved by `update`.
        options: of tqdm.
    """
    if not sys.stderr.isatty():
        options = {"mininterval": LOG_SECONDS, "ascii": " #", **options}
    return tqdm(items, **options)
