"""The lines of a run's shards: what they hold, and their rows in the order of the merged file.

A shard line is {"k": prompt index, "s": sample index, "row": {...}}, or "skip": reason instead of the row, or
{"k": prompt index, "reject": {file, line, reason}} for a prompt that was given up.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from internvl_chat.records.durable import json_line, whole_lines


@dataclass
class Found:
    """What the shards hold; row i is sample `slots[i]` (prompt * num_samples + sample), at `places[2i : 2i + 2]`."""

    shards: list[Path]
    slots: array = field(default_factory=lambda: array("q"))
    places: array = field(default_factory=lambda: array("q"))  # shard number, byte offset, shard number, ...
    skipped: Counter[str] = field(default_factory=Counter)
    rejects: dict[int, Any] = field(default_factory=dict)
    duplicates: int = 0
    complete: bool = False


def locate(shards: list[Path], shape: tuple[int, ...]) -> Found:
    """Find every sample once; 24 bytes a row, so that a run of millions merges in little memory."""
    seen, found = np.zeros(shape, dtype=bool), Found(shards)
    for number, path in enumerate(shards):
        for offset, record in whole_lines(path):
            prompt, sample = record["k"], record.get("s")
            if sample is None:
                found.rejects.setdefault(prompt, record["reject"])
                continue
            if seen[prompt, sample]:
                found.duplicates += 1
            elif "skip" in record:
                found.skipped[record["skip"]] += 1
            else:
                found.slots.append(prompt * shape[1] + sample)
                found.places.extend((number, offset))
            seen[prompt, sample] = True
    seen[list(found.rejects)] = True
    found.complete = bool(seen.all())
    return found


def rows_in_order(found: Found) -> Iterator[bytes]:
    """The lines of the merged file: prompt order, then sample order."""
    order = np.argsort(np.array(found.slots, dtype=np.int64))
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")) for path in found.shards]
        for row in order:
            file = files[found.places[2 * row]]
            file.seek(found.places[2 * row + 1])
            yield json_line(orjson.loads(file.readline())["row"])
