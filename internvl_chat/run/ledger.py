"""Which rows were trained on how often, which were skipped and why; the sum is what the mixture promised.

    ledger.json        sums: promised, used, skipped, and for each data set how often its rows came and why some did not
    ledger_rows.jsonl  a line per data set: {"data_set", "used": [[first line, last line, times], ...], "skipped": ...}
    skipped.jsonl      a line {file, line, row_id, reason, fault} per skip

They lie in the output folder when a run ends, and in every checkpoint, from which a resumed run takes them back: rows
that came after the checkpoint and come again are counted once.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from internvl_chat.checkpoint.output import writing
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.records.samples import SkippedRow
from internvl_chat.run.entry import Finding
from internvl_chat.run.process import gather_objects

SUMS, ROWS, SKIPPED = "ledger.json", "ledger_rows.jsonl", "skipped.jsonl"
FEWEST_ROWS = 1000  # before a share of skipped rows is judged; a shorter epoch counts as its own length


class TooManySkips(Finding):
    """More rows were skipped than `--max_skipped_share` allows; names the kinds of fault and the cure."""


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

    def flush(self, *, is_writer: bool, anew: bool = False) -> list[SkippedRow]:
        """Write what all ranks skipped since the last call, and return it; a collective.

        Args:
            is_writer: on the one rank that writes.
            anew: in place of what the file had, instead of behind it.

        Raises:
            OutputError: the file cannot be written.
        """
        rows = list(chain.from_iterable(gather_objects(self.waiting)))
        self.waiting = []
        self.total += len(rows)
        if rows and is_writer:
            with writing(self.path, "Checkpoints are as they were"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("wb" if anew else "ab") as file:
                    file.writelines(orjson.dumps(asdict(row)) + b"\n" for row in rows)
        return rows

    def start_anew(self, *, is_writer: bool) -> None:
        """Forget everything, the file too."""
        self.waiting, self.total = [], 0
        if is_writer:
            self.path.unlink(missing_ok=True)


class RowCounts:
    """How often each row of a data set was used and skipped, by line number."""

    def __init__(self, data: MixedDataset) -> None:
        """Nothing is counted yet."""
        self.data = data
        lines = data.rows.line_number(len(data.rows) - 1) + 1
        self.used = np.zeros(lines, np.uint32)
        self.skipped = np.zeros(lines, np.uint32)
        self.faults: Counter[str] = Counter()

    def sums(self) -> dict[str, Any]:
        """What ledger.json says of the data set; `times_used` is {times: rows}."""
        spec, rows = self.data.spec, len(self.data.rows)
        times, counts = np.unique(self.used[self.used > 0], return_counts=True)
        known = dict(zip(times.tolist(), counts.tolist(), strict=True))
        times_used = {"0": rows - sum(known.values()), **{str(number): count for number, count in known.items()}}
        return {
            "annotation": self.data.rows.path,
            "rows": rows,
            "repeat_time": spec.repeat_time,
            "promised_per_epoch": len(self.data.order),
            "used": int(self.used.sum()),
            "skipped": int(self.skipped.sum()),
            "times_used": times_used,
            "faults": dict(self.faults.most_common()),
        }

    def runs(self) -> dict[str, Any]:
        """What ledger_rows.jsonl says of the data set."""
        return {"data_set": self.data.spec.name, "used": runs_of(self.used), "skipped": runs_of(self.skipped)}


class Ledger:
    """The ledger of a run: every row that a step took is used or skipped, in the step in which it was."""

    def __init__(self, datasets: Sequence[MixedDataset], folder: Path, *, max_skipped_share: float = 1.0) -> None:
        """Nothing was trained on yet.

        Args:
            datasets: those of the mixture.
            folder: output folder of the run.
            max_skipped_share: of the rows so far, 0 to 1; more end the run.
        """
        self.counts = {data.spec.name: RowCounts(data) for data in datasets}
        self.places = sum(len(data.order) for data in datasets)
        self.skipped = SkippedRows(folder / SKIPPED)
        self.max_skipped_share = max_skipped_share
        self.used_total = 0
        self.in_step: list[str] = []  # rows of this rank in the step that is not done yet
        self.used: list[str] = []  # rows of this rank since the last flush

    def see(self, row_ids: Iterable[str], skipped: Iterable[SkippedRow]) -> None:
        """Take in a micro-batch of this rank."""
        self.in_step.extend(row_ids)
        self.skipped.add(skipped)

    def settle(self, problem: str | None = None) -> None:
        """The step is done: its rows are used, or skipped where a problem kept it from changing the weights."""
        if problem is None:
            self.used.extend(self.in_step)
        else:
            self.skipped.add(self._skip(row_id, problem) for row_id in self.in_step)
        self.in_step = []

    def _skip(self, row_id: str, problem: str) -> SkippedRow:
        name, _, line = row_id.rpartition(":")
        file = self.counts[name].data.rows.path if name in self.counts else ""
        return SkippedRow(file, int(line), row_id, problem, "step_not_taken")

    def flush(self, *, is_writer: bool) -> int:
        """Bring together what all ranks saw since the last call; a collective. Returns the rows skipped in the run.

        Raises:
            TooManySkips: on every rank, when the share that may be skipped is exceeded.
        """
        used = list(chain.from_iterable(gather_objects(self.used)))
        self.used = []
        self.used_total += len(used)
        skipped = self.skipped.flush(is_writer=is_writer)
        self._count("used", used)
        self._count("skipped", [row.row_id for row in skipped])
        for row in skipped:
            self._count_fault(row.row_id, row.fault)
        self._judge()
        return self.skipped.total

    def _count(self, kind: str, row_ids: Iterable[str]) -> None:
        lines: dict[str, list[int]] = {}
        for row_id in row_ids:
            name, _, line = row_id.rpartition(":")
            lines.setdefault(name, []).append(int(line))
        for name in lines.keys() & self.counts.keys():
            np.add.at(getattr(self.counts[name], kind), lines[name], 1)

    def _count_fault(self, row_id: str, fault: str) -> None:
        name = row_id.rpartition(":")[0]
        if name in self.counts:
            self.counts[name].faults[fault] += 1

    def _judge(self) -> None:
        seen = self.used_total + self.skipped.total
        allowed = self.max_skipped_share * max(seen, min(FEWEST_ROWS, self.places))
        if self.skipped.total > allowed:
            faults: Counter[str] = sum((counts.faults for counts in self.counts.values()), Counter())
            raise TooManySkips(
                f"{self.skipped.total} of {seen} rows could not be used, --max_skipped_share is "
                f"{self.max_skipped_share}; by kind: {dict(faults.most_common())}. {self.skipped.path} names them: "
                "mend the data, or raise --max_skipped_share, and start the same command again"
            )

    def sums(self, promised: int) -> dict[str, Any]:
        """What ledger.json says, `promised` being the places that the steps so far have taken."""
        used, skipped = self.used_total, self.skipped.total
        return {
            "promised": promised,
            "used": used,
            "skipped": skipped,
            "adds_up": promised == used + skipped,
            "epochs": promised / self.places if self.places else 0.0,
            "data_sets": {name: counts.sums() for name, counts in self.counts.items()},
        }

    def write(self, folder: Path, promised: int) -> None:
        """Write the three files into a folder; `flush` before, on one rank."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMS).write_bytes(orjson.dumps(self.sums(promised), option=orjson.OPT_INDENT_2) + b"\n")
        with (folder / ROWS).open("wb") as file:
            file.writelines(orjson.dumps(counts.runs()) + b"\n" for counts in self.counts.values())
        if folder != self.skipped.path.parent and self.skipped.path.is_file():
            shutil.copyfile(self.skipped.path, folder / SKIPPED)

    def load(self, folder: Path, *, is_writer: bool) -> None:
        """Go on from the ledger of a checkpoint; skips that came later are forgotten.

        Raises:
            FileNotFoundError: the checkpoint has no ledger.
            ValueError: it is of other data.
        """
        sums = orjson.loads((folder / SUMS).read_bytes())
        self.used_total = sums["used"]
        self.skipped.start_anew(is_writer=is_writer)
        self.skipped.total = sums["skipped"]
        for line in (folder / ROWS).read_bytes().splitlines():
            entry = orjson.loads(line)
            counts = self.counts[entry["data_set"]]
            counts.used = counts_of(entry["used"], len(counts.used))
            counts.skipped = counts_of(entry["skipped"], len(counts.skipped))
        if (folder / SKIPPED).is_file():
            for line in (folder / SKIPPED).read_bytes().splitlines():
                row = orjson.loads(line)
                self._count_fault(row["row_id"], row["fault"])
            if is_writer:
                shutil.copyfile(folder / SKIPPED, self.skipped.path)


def runs_of(counts: np.ndarray) -> list[list[int]]:
    """Counts (lines,) as [first line, last line, times] of every run of equal counts above 0."""
    borders = np.flatnonzero(np.diff(counts)) + 1
    first = np.concatenate([[0], borders])
    last = np.concatenate([borders, [len(counts)]]) - 1
    runs = np.stack([first, last, counts[first]], axis=1)
    return runs[runs[:, 2] > 0].tolist()


def counts_of(runs: Iterable[Sequence[int]], lines: int) -> np.ndarray:
    """Counts (lines,) of `runs_of`; ValueError where they do not fit."""
    counts = np.zeros(lines, np.uint32)
    for first, last, times in runs:
        if not 0 <= first <= last < lines:
            raise ValueError(f"run {first} to {last} of {lines} lines: the ledger is of other data")
        counts[first : last + 1] = times
    return counts


def promised(steps: int, places: int, pairs_per_step: int) -> int:
    """Places that so many steps have taken, an epoch ending in a step of its own."""
    epochs, rest = divmod(steps, max(1, -(-places // pairs_per_step)))
    return epochs * places + rest * pairs_per_step  # less than an epoch: its last step ends it
