"""A validation from its flags to its report: open, check, count, write, tell."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.critic.dataset import first_system
from internvl_chat.data.arguments import DataArguments
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_config, load_tokenizer
from internvl_chat.records.durable import json_text, stamp, write_atomically
from internvl_chat.run.bars import track
from tools.validation.arguments import ValidationArguments
from tools.validation.chunks import COLUMNS, ChunkChecker, check_all, read_in_order
from tools.validation.faults import FAULTS, FoundFault
from tools.validation.mixtures import open_mixture
from tools.validation.page import validation_page
from tools.validation.rows import RowChecker
from tools.validation.summary import Split, Summary, ordered, summarise, verdict
from tools.validation.thumbnails import draw_thumbnails

SHOWN = 3  # findings of a kind on the console


def validate(data_args: DataArguments, args: ValidationArguments) -> int:
    """Check the mixture of `data_args`, write the report; 0 if it passed, else 1.

    Raises:
        FileNotFoundError: meta.json or the checkpoint is not there.
        ValueError: the template is unknown or does not fit the tokenizer.
        BlockingIOError: another run writes the same report.
        ChildProcessError: a worker process died.
    """
    start = time.monotonic()
    checker = build_checker(data_args, args)
    datasets: list[MixedDataset] = []
    findings: list[FoundFault] = []
    splits: list[Split] = []
    for name, path in (("train", data_args.meta_path), ("held-out", data_args.eval_meta_path)):
        if path:
            opened, of_meta = open_mixture(Path(path))
            splits.append(Split(name, opened, len(datasets)))
            datasets += opened
            findings += of_meta
    if data_args.system_message is None:
        checker.system_message = first_system(datasets)
    part_file = args.output_dir / f"validation.{run_key(data_args, args, datasets)}.parts"
    with track(total=sum(len(data.rows) for data in datasets), unit=" rows") as bar:
        check_all(ChunkChecker(checker, datasets), part_file, args.num_workers, bar.update)
    summary = summarise(read_in_order(part_file), splits, findings, args.output_dir / "findings.jsonl")
    report = build_report(summary, data_args, args)
    write_atomically(args.output_dir / "validation.json", [json_text(report)])
    pictures = draw_thumbnails(summary.examples, datasets, follow_symlinks=data_args.follow_symlinks)
    page = validation_page(report, summary, data_args.max_seq_length, pictures)
    write_atomically(args.output_dir / "validation.html", [page.encode()])
    for parts in args.output_dir.glob("validation.*.parts"):
        parts.unlink()
    tell(summary, report, time.monotonic() - start, args.output_dir)
    return 0 if report["passed"] else 1


def build_checker(data_args: DataArguments, args: ValidationArguments) -> RowChecker:
    """The checker of rows, with the tokenizer of the checkpoint if one is named; errors as of `validate`."""
    rows = None
    if args.model_name_or_path:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core does better, and forks safely
        source = local_checkpoint(args.model_name_or_path)
        config = load_config(source)
        data_args.configure(config)
        tokenizer = load_tokenizer(source, model_max_length=data_args.max_seq_length)
        rows = RowTokenizer(tokenizer, data_args.conv_style, config.num_image_token, data_args.system_message)
    return RowChecker(
        data_args.tiling(),
        rows,
        max_seq_length=data_args.max_seq_length,
        frames=data_args.frame_limits(),
        decode=args.decode,
        allow_no_rejected=args.allow_no_rejected,
        follow_symlinks=data_args.follow_symlinks,
    )


def run_key(data_args: DataArguments, args: ValidationArguments, datasets: Sequence[MixedDataset]) -> str:
    """Name of what is checked and how; files count by path, size and time of change."""
    stamps = [(data.spec, data.root, data.rows.path, stamp(data.rows.path)) for data in datasets]
    how = (args.model_name_or_path, args.decode, args.allow_no_rejected, tuple(COLUMNS))
    return xxhash.xxh3_64_hexdigest(repr((stamps, data_args, how)).encode())


def build_report(summary: Summary, data_args: DataArguments, args: ValidationArguments) -> dict[str, Any]:
    """The content of validation.json."""
    settings = {**asdict(data_args), **asdict(args), "output_dir": str(args.output_dir)}
    return {
        "meta_path": data_args.meta_path,
        "passed": summary.passed(args.strict, args.max_skipped_share),
        "verdict": verdict(
            summary,
            strict=args.strict,
            with_tokens=bool(args.model_name_or_path),
            max_skipped_share=args.max_skipped_share,
        ),
        **summary.to_json(),
        "settings": settings,
    }


def tell(summary: Summary, report: dict[str, Any], seconds: float, output_dir: Path) -> None:
    """Print what was found and the verdict."""
    for name, count in ordered(summary.counts):
        fault = FAULTS[name]
        print(f"{fault.severity:8}{count:>9,}  {name}: {fault.what}; {fault.cure}")
        for found in summary.examples[name][:SHOWN]:
            place = f"{found.file}:{found.line}" if found.line else found.dataset or found.file
            print(f"{'':19}{place}: {found.detail}")
        if count > SHOWN:
            print(f"{'':19}and {count - SHOWN:,} more")
    print(summary.sharing_said())
    print(f"{summary.rows:,} rows in {seconds:.1f} s; report: {output_dir / 'validation.html'}")
    print(report["verdict"])
