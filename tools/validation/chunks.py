"""All rows of some data sets checked piece by piece, in worker processes; a run that is killed goes on where it was.

A piece is up to CHUNK_ROWS rows of one data set. What was found in it is one line of the part file, which is kept until
the report is written. Its name tells the settings and the files (by size and time of change), so that a changed file is
checked anew; pieces with faults of images are checked again in any case, since images are mended without a trace there.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from internvl_chat.data.mixture import MixedDataset
from internvl_chat.records.durable import json_line, open_for_append, whole_lines
from internvl_chat.records.rows import Source
from tools.validation.rows import RowChecker

CHUNK_ROWS = 500
TOKENIZED_ROWS = 500  # per data set, about: for the histogram of lengths
COLUMNS = {"line": np.uint32, "prompt": np.uint64, "pair": np.uint64, "mirror": np.uint64}
COLUMNS |= {"image": np.uint64, "chosen": np.uint32, "rejected": np.uint32}


class Chunk(NamedTuple):
    """Rows `start` to `stop` (not included) of data set number `number`, all from 0."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class ChunkFacts:
    """What was found in a chunk.

    Attributes:
        chunk: which.
        faults: (line, name, detail) in file order.
        columns: an array per name of COLUMNS, one entry per usable row.
        tiles: number of usable rows with images by their tiles.
        tokens: tokens of prompt and longest answer of the rows that were tokenized.
    """

    chunk: Chunk
    faults: list[tuple[int, str, str]]
    columns: dict[str, np.ndarray]
    tiles: Counter[int]
    tokens: list[int]

    def to_line(self) -> bytes:
        """One line of the part file."""
        columns = {name: base64.b64encode(values.tobytes()).decode() for name, values in self.columns.items()}
        tiles = list(self.tiles.items())
        return json_line([list(self.chunk), self.faults, columns, tiles, self.tokens])

    @classmethod
    def from_line(cls, line: Any) -> ChunkFacts:
        """The facts of a parsed line of the part file."""
        chunk, faults, columns, tiles, tokens = line
        arrays = {name: np.frombuffer(base64.b64decode(columns[name]), kind) for name, kind in COLUMNS.items()}
        return cls(Chunk(*chunk), [(at, name, why) for at, name, why in faults], arrays, Counter(dict(tiles)), tokens)


@dataclass
class ChunkChecker:
    """Checks whole chunks."""

    checker: RowChecker
    datasets: Sequence[MixedDataset]

    def __call__(self, chunk: Chunk) -> ChunkFacts:
        """Check the rows of a chunk."""
        data = self.datasets[chunk.number]
        stride = max(1, len(data.rows) // TOKENIZED_ROWS)
        checked = []
        for row in range(chunk.start, chunk.stop):
            line, number = data.rows[row]
            where = Source(data.rows.path, number)
            checked.append(self.checker.check(line, where, data, count_tokens=row % stride == 0))
        usable = [facts for facts in checked if facts.usable]
        columns = {name: np.array([getattr(facts, name) for facts in usable], kind) for name, kind in COLUMNS.items()}
        faults = [(facts.line, name, detail) for facts in checked for name, detail in facts.faults]
        tiles = Counter(facts.tiles for facts in usable if facts.tiles)
        return ChunkFacts(chunk, faults, columns, tiles, [facts.tokens for facts in usable if facts.tokens is not None])


def cut_chunks(datasets: Sequence[MixedDataset]) -> list[Chunk]:
    """All rows of the data sets in order."""
    return [
        Chunk(number, start, min(start + CHUNK_ROWS, len(data.rows)))
        for number, data in enumerate(datasets)
        for start in range(0, len(data.rows), CHUNK_ROWS)
    ]


def check_all(check: ChunkChecker, part_file: Path, num_workers: int, progress: Callable[[int], object]) -> None:
    """Check the chunks that the part file lacks and append them to it.

    Args:
        check: what to do with a chunk.
        part_file: made where it is not there.
        num_workers: processes; 1 checks in this one.
        progress: called with the number of rows after each chunk, at once for those that were done before.

    Raises:
        BlockingIOError: another run writes the same part file.
        ChildProcessError: a worker process died; names the rows it may have died of.
    """
    with open_for_append(part_file) as file:
        done = {facts.chunk for facts in read_parts(part_file) if not _has_image_faults(facts)}
        progress(sum(chunk.stop - chunk.start for chunk in done))
        left = [chunk for chunk in cut_chunks(check.datasets) if chunk not in done]
        for facts in map(check, left) if num_workers == 1 else _in_processes(check, left, num_workers):
            file.write(facts.to_line())
            file.flush()
            progress(facts.chunk.stop - facts.chunk.start)


def read_parts(part_file: Path) -> Iterator[ChunkFacts]:
    """The facts in a part file; where a chunk was checked twice, both."""
    return (ChunkFacts.from_line(line) for _, line in whole_lines(part_file))


def read_in_order(part_file: Path) -> Iterator[ChunkFacts]:
    """The last facts of each chunk in the order of the data, one in memory at a time."""
    places = {tuple(line[0]): offset for offset, line in whole_lines(part_file)}
    with open(part_file, "rb") as file:
        for chunk in sorted(places):
            file.seek(places[chunk])
            yield ChunkFacts.from_line(orjson.loads(file.readline()))


def _has_image_faults(facts: ChunkFacts) -> bool:
    return any(name.startswith("image_") for _, name, _ in facts.faults)


_check: ChunkChecker | None = None  # in a worker process


def _start_worker(check: ChunkChecker) -> None:
    global _check
    _check = check
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, also if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _check_here(chunk: Chunk) -> ChunkFacts:
    assert _check is not None
    return _check(chunk)


def _in_processes(check: ChunkChecker, chunks: Sequence[Chunk], num_workers: int) -> Iterator[ChunkFacts]:
    """Facts of chunks as they are done. Forked workers share the mapped files and the tokenizer."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_workers, context, _start_worker, (check,)) as pool:
        waiting, running = iter(chunks), dict[Future[ChunkFacts], Chunk]()
        while True:
            for chunk in islice(waiting, 2 * num_workers - len(running)):
                running[pool.submit(_check_here, chunk)] = chunk
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield _result(future, running, check)
                del running[future]


def _result(future: Future[ChunkFacts], running: dict[Future[ChunkFacts], Chunk], check: ChunkChecker) -> ChunkFacts:
    try:
        return future.result()
    except BrokenProcessPool as error:
        places = [f"{check.datasets[c.number].spec.name} rows {c.start + 1}-{c.stop}" for c in running.values()]
        raise ChildProcessError(
            f"a worker process died (out of memory, or an image library crashed) on one of: {'; '.join(places)}. "
            "What was checked is kept: start again, with fewer --num_workers if memory was short"
        ) from error
