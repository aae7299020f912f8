"""One data set after another, question by question, into files of rows with a meta.json to train from.

A script says what its rows are and what becomes of the rows of one question (`Conversion`); `run_conversion` does the
rest: two passes in bounded memory (see grouping.py), processes that share a data set, ranks that share the data sets,
finished data sets left alone, bad rows written down (see index.py), and an exit code that says when nothing was made.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from internvl_chat.records.durable import join_files, json_line, whole_lines
from internvl_chat.records.rows import Source
from internvl_chat.run.bars import track
from internvl_chat.run.entry import at_least
from internvl_chat.run.process import find_process
from tools.reasoning_data_pipeline.pairs.grouping import (
    BUFFER,
    Group,
    KeyPartitions,
    SampledDataset,
    find_datasets,
    partition_rows,
    read_groups,
)
from tools.reasoning_data_pipeline.pairs.index import (
    forget_finished,
    input_record,
    is_finished,
    meta_entries,
    publish,
    write_finished,
)


class RowFile:
    """A JSONL file that is being written; `rows` have been."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.rows = file, 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._file.write(json_line(row))
        self.rows += 1


@dataclass(frozen=True)
class Portion:
    """A share of the questions of a data set, small enough for memory.

    Attributes:
        args: the command line.
        dataset: name of the data set.
        lines: the file with the rows.
        rows_before: rows of the parts before this one.
    """

    args: argparse.Namespace
    dataset: str
    lines: Path
    rows_before: int

    def groups(self) -> Iterator[Group]:
        """The rows, question by question."""
        return read_groups(self.lines)

    def output(self, kind: str) -> Path:
        """The file for the rows of one kind."""
        return self.lines.with_suffix(f".{kind}")


RowFiles = Mapping[str, RowFile]
"""Kind of rows -> their file."""


class Counts(Protocol):
    """What was counted over a part of a data set."""

    def update(self, other: Any) -> None:
        """Add the counts of another part."""
        ...

    def to_json(self) -> dict[str, Any]:
        """As in summary.json."""
        ...


class Tally(Counter[str]):
    """Counts by name."""

    def to_json(self) -> dict[str, Any]:
        """By name, in order."""
        return dict(sorted(self.items()))


def describe(name: str, summary: Mapping[str, Any]) -> str:
    """The counts of a data set in one line."""
    counts = {key: number for key, number in summary.items() if isinstance(number, int)}
    return f"{name}: " + ", ".join(f"{key} {number}" for key, number in counts.items())


def keep_nothing(part: Portion, counts: Counts) -> None:
    """A run that has nothing to tell the next one."""


@dataclass(frozen=True)
class Conversion:
    """What becomes of the rows of a data set.

    Attributes:
        outputs: kind of rows -> file below the folder that is written, `{}` for the data set's name.
        metas: meta file -> kinds of the rows that it names.
        find_key: the key of a row's question; RecordError for a row that is of no use.
        convert: writes what the rows of a part give, and counts it; in a process of its own where there are several.
        options: names of the flags that decide the outputs.
        keep: in the process of the rank, gets a part and its counts: what a run learns for the next one.
        describe: a data set's name and summary as text.
    """

    outputs: Mapping[str, str]
    metas: Mapping[str, Sequence[str]]
    find_key: Callable[[bytes, Source], str]
    convert: Callable[[Portion, RowFiles], Counts]
    options: Sequence[str]
    keep: Callable[[Portion, Any], None] = keep_nothing
    describe: Callable[[str, Mapping[str, Any]], str] = describe


def add_conversion_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every such script."""
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of *.jsonl to read, such as the --out-dir of a sampling "
        "run; files of one name are one data set")  # fmt: skip
    add("--save-dir", type=Path, required=True, help="where pairs, meta files and all else go")
    add("--num-pairs-per-key", type=at_least(0), default=15, metavar="N", help="at most N pairs of each kind per "
        "question, drawn evenly; 0 for all (default: %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="do finished data sets again")
    add("--image-root", type=Path, help="folder that image paths are relative to, if not the working directory, that "
        "of the sampling run, or the prompt file's")  # fmt: skip
    add("--num-workers", type=at_least(1), default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes that share a data set (default: the CPUs this process may use, %(default)s)")  # fmt: skip


def run_conversion(conversion: Conversion, parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Convert this rank's data sets, publish what is finished, and say what was counted; without rows a usage error.

    Args:
        conversion: what becomes of the rows.
        parser: with the flags of `add_conversion_flags`.
        arguments: of the command line.

    Returns:
        The exit code: 1 where all data sets are finished and nothing came of them, else 0.

    Raises:
        ValueError: a data set was done with other options or inputs.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    args = parser.parse_args(arguments)
    datasets = _datasets_of(args, parser)
    worker = find_process()
    mine = datasets[worker.rank :: worker.world_size]
    for dataset in mine:
        convert_dataset(conversion, dataset, args)
    finished = publish(args.save_dir)
    for dataset in mine:
        print(conversion.describe(dataset.name, finished[dataset.name]["summary"]))
    print(f"{args.save_dir / 'meta.json'}: {len(finished)} of {len(datasets)} data sets are finished")
    if len(finished) < len(datasets) or any(any(record["meta"].values()) for record in finished.values()):
        return 0
    print(f"error: no row was made for {', '.join(conversion.metas)}: {why_nothing(args.save_dir)}", file=sys.stderr)
    return 1


def _datasets_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[SampledDataset]:
    """The data sets below --data-dir; a usage error where there is none."""
    if not args.data_dir.is_dir():
        parser.error(f"--data-dir {args.data_dir} is not a folder")
    datasets = find_datasets(args.data_dir, args.save_dir)
    if not datasets:
        parser.error(f"no *.jsonl below --data-dir {args.data_dir}: has the run that writes them finished?")
    return datasets


def why_nothing(save_dir: Path) -> str:
    """Why all data sets are finished and have no rows to train on."""
    rejects = [row for _, row in whole_lines(save_dir / "rejects.jsonl")]
    if not rejects:
        return f"no answers to one question differ as a pair must; {save_dir / 'summary.json'} has what was counted"
    first = rejects[0]
    reason = f"{first['file']}:{first['line']}: {first['reason']}"
    return f"{len(rejects)} rows could not be used ({save_dir / 'rejects.jsonl'}), the first is {reason}"


def convert_dataset(conversion: Conversion, dataset: SampledDataset, args: argparse.Namespace) -> None:
    """Convert one data set, unless it is done; ValueError where it was done with other options or inputs."""
    options = {name: getattr(args, name) for name in conversion.options}
    record: dict[str, Any] = {"options": options, "inputs": input_record(dataset.files)}
    if not args.overwrite and is_finished(args.save_dir, dataset.name, record):
        return
    forget_finished(args.save_dir, dataset.name)
    paths = {kind: args.save_dir / name.format(dataset.name) for kind, name in conversion.outputs.items()}
    folder = args.save_dir / f".{dataset.name}.partitions"
    with KeyPartitions(folder, KeyPartitions.count_for(dataset.size)) as partitions:
        rejects = partition_rows(dataset, partitions, conversion.find_key)
        before = itertools.accumulate(partitions.lines, initial=0)
        lines = map(partitions.path, range(partitions.count))
        parts = [Portion(args, dataset.name, path, rows) for path, rows in zip(lines, before, strict=False)]
        summary, rows = convert_parts(conversion, parts)
        for kind, path in paths.items():
            join_files(path, [part.output(kind) for part in parts])
    record["meta"] = {
        meta: meta_entries([(paths[kind], rows[kind]) for kind in kinds], dataset.files, args.save_dir, args.image_root)
        for meta, kinds in conversion.metas.items()
    }
    files = [str(path) for path in dataset.files]
    record["summary"] = {"files": files, **summary, "bad_rows": len(rejects)}
    write_finished(args.save_dir, dataset.name, record, rejects)


def convert_parts(conversion: Conversion, parts: Sequence[Portion]) -> tuple[dict[str, Any], Counter[str]]:
    """Second pass: the summary of a data set, and its rows by kind; the files lie beside those of the parts."""
    work = functools.partial(convert_part, conversion.convert, tuple(conversion.outputs))
    workers = min(parts[0].args.num_workers, len(parts))
    total, rows = None, Counter[str]()
    with ExitStack() as stack:
        results: Iterable[tuple[Counts, Counter[str]]] = map(work, parts)
        if workers > 1:
            spawn = multiprocessing.get_context("spawn")  # a checker of answers must not cross a fork
            results = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn)).map(work, parts)
        bar = track(results, total=len(parts), unit="part", desc=f"{parts[0].dataset}: convert")
        for part, (counts, written) in zip(parts, bar, strict=True):
            conversion.keep(part, counts)
            rows.update(written)
            if total is None:
                total = counts
            else:
                total.update(counts)
    assert total is not None, f"no parts of {parts}"
    return total.to_json(), rows


def convert_part(
    convert: Callable[[Portion, RowFiles], Counts], kinds: Sequence[str], part: Portion
) -> tuple[Counts, Counter[str]]:
    """Write the rows of a part; returns what was counted, and the rows by kind."""
    with ExitStack() as stack:
        opened = {kind: stack.enter_context(open(part.output(kind), "wb", buffering=BUFFER)) for kind in kinds}
        files = {kind: RowFile(file) for kind, file in opened.items()}
        counts = convert(part, files)
    return counts, Counter({kind: file.rows for kind, file in files.items()})
