"""How hard a prompt is: the share of right ones among its sampled answers, judged as in the correctness pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import xxhash

from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, modes_for_dataset
from tools.reasoning_data_pipeline.answers.judging import Judge
from tools.reasoning_data_pipeline.pairs.correctness import sampled_key
from tools.reasoning_data_pipeline.pairs.grouping import KeyPartitions, find_datasets, partition_rows, read_groups


def asked_key(images: Sequence[str], question: str) -> int:
    """What a pair and the answers that it is made of have in common: images and question as asked, a 64-bit hash."""
    return xxhash.xxh3_64_intdigest("\0".join([str(len(images)), *images, question]).encode("utf-8", "surrogatepass"))


def right_shares(data_dir: Path, exclude: Path) -> dict[int, float]:
    """Key -> share of right answers, 0 to 1, of every prompt below the folder of a sampling run.

    Args:
        data_dir: its --out-dir.
        exclude: the folder that is written, which may lie below.

    Raises:
        ValueError: there is no sampled answer.
    """
    shares: dict[int, float] = {}
    with AnswerChecker() as checker:
        for dataset in find_datasets(data_dir, exclude):
            judge = Judge(checker, modes_for_dataset(dataset.name))
            with (
                tempfile.TemporaryDirectory() as folder,
                KeyPartitions(Path(folder) / "answers", KeyPartitions.count_for(dataset.size)) as partitions,
            ):
                partition_rows(dataset, partitions, sampled_key)
                partitions.close_files()
                for number in range(partitions.count):
                    for group in read_groups(partitions.path(number)):
                        found = judge.judge(list(group.rows()))
                        key = asked_key(found.prompt.image, found.prompt.question)
                        shares[key] = found.count("correct") / sum(found.repeats.values())
    if not shares:
        raise ValueError(f"{data_dir}: no sampled answers; name the --out-dir of a sampling run")
    return shares
