"""One data set after another, question by question, into files beside which `pair_index` keeps its records.

A script says what its rows are and what becomes of the rows of one question; this does the rest: two passes in bounded
memory (see pairs.py), data sets that are finished left alone, bad rows written down, meta.json for training.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from internvl_chat.records.durable import join_files
from internvl_chat.records.rows import Source
from internvl_chat.run.process import find_process
from tools.reasoning_data_pipeline.pairs.drawing import Group, KeyPartitions, read_groups
from tools.reasoning_data_pipeline.pairs.index import (
    forget_finished,
    input_record,
    is_finished,
    meta_entries,
    publish,
    write_finished,
)
from tools.reasoning_data_pipeline.pairs.sampled import SampledDataset, find_datasets, partition_rows


@dataclass(frozen=True)
class GroupConversion:
    """What becomes of the rows of a data set.

    Attributes:
        outputs: kind -> file below the folder that is written, `{}` for the data set's name.
        metas: meta file -> kind of the rows that it names; a kind is counted under its own name.
        key_of: the key of a row's question; RecordError for a row that is of no use.
        convert: by the flags, writes what the rows of one question give, by kind, and counts it.
        options: names of the flags that decide the outputs.
    """

    outputs: Mapping[str, str]
    metas: Mapping[str, str]
    key_of: Callable[[bytes, Source], str]
    convert: Callable[[argparse.Namespace, Group, Mapping[str, BinaryIO], Counter[str]], None]
    options: Sequence[str]


def add_conversion_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every such script."""
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of *.jsonl to read; files of one name are one data set")
    add("--save-dir", type=Path, required=True, help="where pairs, meta files and all else go")
    add("--num-pairs-per-key", type=int, default=15, metavar="N", help="at most N pairs per question; 0 for all "
        "(default: %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="do finished data sets again")
    add("--image-root", type=Path, help="folder that image paths are relative to, if not found otherwise")


def run_conversion(
    conversion: GroupConversion, parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> None:
    """Convert this rank's data sets, publish what is finished, and say what was counted; without rows a usage error.

    Args:
        conversion: what becomes of the rows.
        parser: with the flags of `add_conversion_flags`.
        arguments: of the command line.

    Raises:
        ValueError: a data set was done with other options or inputs.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    args = parser.parse_args(arguments)
    datasets = find_datasets(args.data_dir, args.save_dir)
    if not datasets:
        parser.error(f"no *.jsonl below --data-dir {args.data_dir}: has the run that writes them finished?")
    worker = find_process()
    mine = datasets[worker.rank :: worker.world_size]
    for dataset in mine:
        convert_dataset(conversion, dataset, args)
    summaries = publish(args.save_dir)
    for dataset in mine:
        print(f"{dataset.name}: " + ", ".join(f"{name} {n}" for name, n in summaries[dataset.name].items()))
    print(f"{args.save_dir / 'meta.json'}: {len(summaries)} of {len(datasets)} data sets are finished")


def convert_dataset(conversion: GroupConversion, dataset: SampledDataset, args: argparse.Namespace) -> None:
    """Convert one data set, unless it is done; ValueError where it was done with other options or inputs."""
    options = {name: getattr(args, name) for name in conversion.options}
    record: dict[str, Any] = {"options": options, "inputs": input_record(dataset.files)}
    if not args.overwrite and is_finished(args.save_dir, dataset.name, record):
        return
    forget_finished(args.save_dir, dataset.name)
    paths = {kind: args.save_dir / name.format(dataset.name) for kind, name in conversion.outputs.items()}
    counts: Counter[str] = Counter()
    folder = args.save_dir / f".{dataset.name}.partitions"
    with KeyPartitions(folder, KeyPartitions.count_for(dataset.size)) as partitions:
        rejects = partition_rows(dataset, partitions, conversion.key_of)
        with ExitStack() as stack:
            files = {kind: stack.enter_context(open(folder / kind, "wb")) for kind in paths}
            for index in range(partitions.count):
                for group in read_groups(partitions.path(index)):
                    conversion.convert(args, group, files, counts)
        for kind, path in paths.items():
            join_files(path, [folder / kind])
    record["meta"] = {
        meta: meta_entries([(paths[kind], counts[kind])], dataset.files, args.image_root)
        for meta, kind in conversion.metas.items()
    }
    record["summary"] = {"bad_rows": len(rejects), **dict(sorted(counts.items()))}
    write_finished(args.save_dir, dataset.name, record, rejects)
