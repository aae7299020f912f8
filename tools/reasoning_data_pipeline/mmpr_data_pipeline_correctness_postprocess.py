"""Sampled answers to preference pairs: the second half of the correctness pipeline.

    python tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness_postprocess.py \\
        --data-dir out --save-dir pairs --answer-fix --num-pairs-per-key 15 --max-lines 1200000

Reads every *.jsonl below --data-dir. Files of one name are one data set (sampled at several tile limits, say); pairs
share image, question and answer. Writes below --save-dir:

    raw/<name>_pairs_vqa_correctness_rules.jsonl    right answers against wrong ones
    raw/<name>_pairs_vqa_format_rules.jsonl         right answers against answers that broke the format
    pos_items/<name>.jsonl                          every distinct right answer
    neg_items/<name>.jsonl                          questions that nobody got right, as prompts to sample again
    meta.json                                       ready for training
    summary.json, rejects.jsonl                     what was counted, and the rows that could not be used

The pairs depend on the answers and the flags only, not on the order of rows, the number of processes or of ranks.
Under srun or torchrun the ranks share out the data sets. A finished data set is not done again; when its answers or
the flags have changed, the run stops and asks for --overwrite.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from internvl_chat.records.durable import json_line, open_for_append, whole_lines
from internvl_chat.run.process import find_process
from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, modes_for_dataset
from tools.reasoning_data_pipeline.answers.judging import Verdicts
from tools.reasoning_data_pipeline.pairs.correctness import (
    OUTPUTS,
    PAIR_KINDS,
    DatasetRun,
    PairOptions,
)
from tools.reasoning_data_pipeline.pairs.index import (
    forget_finished,
    input_record,
    is_finished,
    meta_entries,
    publish,
    write_finished,
)
from tools.reasoning_data_pipeline.pairs.sampled import SampledDataset, find_datasets
from tools.reasoning_data_pipeline.pairs.summary import format_summary

CHECK_SOURCES = ("answers/*.py",)


class VerdictCache:
    """Verdicts that were slow to find, kept for the next run: correctness_cache/<name>.jsonl.

    A verdict depends on the answers, the modes and the source code of the checks; those of other code are left alone.
    """

    def __init__(self, path: Path) -> None:
        sources = sorted(source for name in CHECK_SOURCES for source in Path(__file__).parent.glob(name))
        self.code = xxhash.xxh3_64_hexdigest(b"".join(source.read_bytes() for source in sources))
        self._file = open_for_append(path)
        rows = (row for _, row in whole_lines(path))
        self.known: Verdicts = {row["key"]: tuple(row["verdict"]) for row in rows if row["code"] == self.code}

    def learn(self, verdicts: Verdicts) -> None:
        """Keep new verdicts."""
        for key, verdict in verdicts.items():
            self._file.write(json_line({"key": key, "verdict": verdict, "code": self.code}))
        self._file.flush()

    def __enter__(self) -> VerdictCache:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def make_pairs(dataset: SampledDataset, args: argparse.Namespace) -> None:
    """Make the pairs of one data set, unless they are there."""
    options = PairOptions(args.num_pairs_per_key, args.answer_fix, args.max_lines)
    record: dict[str, Any] = {"options": asdict(options), "inputs": input_record(dataset.files)}
    if not args.overwrite and is_finished(args.save_dir, dataset.name, record):
        return
    forget_finished(args.save_dir, dataset.name)
    with ExitStack() as stack:
        cache = None
        if args.use_correctness_cache:
            cache = stack.enter_context(VerdictCache(args.save_dir / "correctness_cache" / f"{dataset.name}.jsonl"))
        run = DatasetRun(
            dataset=dataset,
            save_dir=args.save_dir,
            options=options,
            modes=tuple(modes_for_dataset(dataset.name)),
            make_checker=AnswerChecker,
            num_workers=args.num_workers,
            known=cache.known if cache else {},
        )
        summary, rejects = run.run(cache.learn if cache else lambda verdicts: None)
    pairs = [(args.save_dir / OUTPUTS[kind].format(dataset.name), summary.pairs[kind]) for kind in PAIR_KINDS]
    record["meta"] = {"meta.json": meta_entries(pairs, dataset.files, args.image_root)}
    record["summary"] = {"files": [str(path) for path in dataset.files], **summary.to_json()}
    write_finished(args.save_dir, dataset.name, record, rejects)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of the sampling run (its --out-dir, or any below it)")
    add("--save-dir", type=Path, required=True, help="where pairs and meta.json go")
    add("--answer-fix", action="store_true", help="en and zh prompts: tidy the last line of chosen answers, no others")
    add("--force", action="store_true", help="accepted for old command lines, without effect: it let ground-truth "
        "texts join as answers")  # fmt: skip
    add("--num-pairs-per-key", type=int, default=15, metavar="N", help="at most N pairs of each kind per question, "
        "drawn evenly; 0 for all (default: %(default)s)")  # fmt: skip
    add("--max-lines", type=int, default=0, metavar="N", help="at most N answers per data set, whole questions only, "
        "a fair sample of them; 0 for all (default: %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="do finished data sets again")
    add("--use-correctness-cache", action="store_true", help="keep verdicts that were slow to find for the next run")
    add("--image-root", type=Path, help="folder that image paths are relative to, if not the working directory, that "
        "of the sampling run, or the prompt file's")  # fmt: skip
    add("--num-workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes that judge answers (default: the CPUs this process may use, %(default)s)")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pairs of this rank's data sets and publish what is finished."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    parser = build_parser()
    args = parser.parse_args(arguments)
    if not args.data_dir.is_dir():
        parser.error(f"--data-dir {args.data_dir} is not a folder")
    datasets = find_datasets(args.data_dir, args.save_dir)
    if not datasets:
        parser.error(f"no *.jsonl below --data-dir {args.data_dir}: has the sampling run finished?")
    worker = find_process()
    mine = datasets[worker.rank :: worker.world_size]
    for dataset in mine:
        make_pairs(dataset, args)
    summaries = publish(args.save_dir)
    for dataset in mine:
        print(format_summary(dataset.name, summaries[dataset.name]))
    print(f"{args.save_dir / 'meta.json'}: {len(summaries)} of {len(datasets)} data sets are finished")


if __name__ == "__main__":
    main()
