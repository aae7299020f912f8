"""Which rows were skipped and why: `skipped.jsonl` of a run, one line {file, line, row_id, reason} per skip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import orjson
from accelerate import Accelerator

from internvl_chat.dataset import SkippedRow
from internvl_chat.metrics import gather_objects


class SkippedRows:
    """Collects skips of this rank; rank 0 writes those of all."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, which is made at the first skip."""
        self.path = path
        self.waiting: list[SkippedRow] = []
        self.total = 0

    def add(self, rows: Iterable[SkippedRow]) -> None:
        """Remember skips until the next `flush`."""
        self.waiting.extend(rows)

    def flush(self, accelerator: Accelerator) -> int:
        """Append what all ranks skipped since the last call; a collective. Returns the total of the run."""
        rows = list(chain.from_iterable(gather_objects(accelerator, self.waiting)))
        self.waiting = []
        self.total += len(rows)
        if rows and accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.writelines(orjson.dumps(asdict(row)) + b"\n" for row in rows)
        return self.total
