"""Curate pairs before training: filters that count, and say of every row that left why it did.

    python tools/curate.py --meta_path mixture.json --out curated --held_out MathVista/mathvista_testmini.jsonl \
        --near_duplicates --languages en zh --pairs_per_prompt 8 --most_longer 0.6 --sampled sampled

Filters run in this order, each where its flag is given; a row leaves once:

    unusable          always: what training would skip, by its form
    leaked_*          --held_out FILES       questions and pictures of evaluation files (13-grams, exact and perceptual)
    difficulty        --sampled DIR          share of right answers outside --least_right .. --most_right
    language          --languages CODES      surely in another language
    duplicate_pair,   --near_duplicates      equal pairs; the same question, however spelled, about the same pictures,
    near_duplicate                           re-encoded, scaled or cropped by up to 5 % a side
    pairs_per_prompt  --pairs_per_prompt N   at most N pairs of a prompt, drawn by --seed
    length_balance    --most_longer SHARE    at most this share of a data set's pairs with the longer answer on one side

Writes below --out: annotations/, meta.json (for validate and the launchers), left_out.jsonl (a line per row: data_set,
file, line, filter, `as` which row, detail), curation.json (counts by filter and data set, and the decontamination
report that belongs beside a headline), pictures.jsonl (hashes, so that a stopped run goes on and a repeat is fast).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from internvl_chat.data.mixture import MixedDataset, open_dataset
from internvl_chat.records.durable import json_line, json_text, write_atomically
from internvl_chat.records.meta import read_meta
from internvl_chat.run.entry import Parser, at_least, enter
from tools.curation.balance import balance_lengths, keep_difficulty, keep_languages, limit_pairs
from tools.curation.columns import Columns, lines_of, output_name, read_columns
from tools.curation.decontamination import drop_leaks
from tools.curation.duplicates import drop_near_duplicates, drop_repeated_pairs
from tools.curation.evaluation_files import read_evaluation
from tools.curation.ledger import DropLedger
from tools.curation.pictures import PictureHashes


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line.

    Raises:
        SystemExit: a share is not in its range.
    """
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--meta_path", type=Path, required=True, help="meta.json of the pairs")
    add("--out", type=Path, required=True, help="folder to write")
    add("--held_out", type=Path, nargs="+", help="evaluation files, as tools/evaluate.py reads them")
    add(
        "--held_out_image_root", type=Path, help="folder that their image paths are relative to, if not found otherwise"
    )
    add("--sampled", type=Path, help="--out-dir of the sampling run that the pairs were made from")
    add("--least_right", type=float, default=0.2, help="share of right answers (default: %(default)s, MMPR-Tiny's)")
    add("--most_right", type=float, default=0.8, help="(default: %(default)s, MMPR-Tiny's)")
    add("--languages", nargs="+", metavar="CODE", help="that stay, such as en zh (ISO 639-1)")
    add("--near_duplicates", action="store_true", help="drop them")
    add("--pairs_per_prompt", type=at_least(1), metavar="N", help="at most")
    add("--most_longer", type=float, metavar="SHARE", help="at most, 0.5 to 1")
    add("--seed", type=int, default=0, help="of what is drawn")
    add("--num_workers", type=at_least(1), default=len(os.sched_getaffinity(0)), help="processes that hash pictures")
    args = parser.parse_args(argv)
    if not 0 <= args.least_right <= args.most_right <= 1:
        parser.error(f"--least_right {args.least_right} --most_right {args.most_right}: 0 <= least <= most <= 1")
    if args.most_longer is not None and not 0.5 <= args.most_longer <= 1:
        parser.error(f"--most_longer {args.most_longer} must be from 0.5, as many on each side, to 1")
    return args


def curate(args: argparse.Namespace) -> dict[str, Any]:
    """Filter and write; returns what curation.json says.

    Raises:
        FileNotFoundError, ValueError: a file that is named is not there or not usable, or no row is left.
    """
    begin = time.monotonic()
    datasets = [open_dataset(spec, n, args.meta_path) for n, spec in enumerate(read_meta(args.meta_path))]
    known = read_evaluation(args.held_out, args.held_out_image_root) if args.held_out else None
    args.out.mkdir(parents=True, exist_ok=True)
    hashes = PictureHashes(args.out / "pictures.jsonl", args.num_workers)
    columns = read_columns(datasets)
    ledger = DropLedger(columns)
    leaks = drop_leaks(columns, ledger, known, hashes) if known else None
    run_filters(columns, ledger, hashes, args)
    counts = ledger.counts()
    if not len(ledger.staying()):
        raise ValueError(f"{args.meta_path}: no row is left, by filter and data set: {counts}; loosen a filter")
    write_rows(args.out, args.meta_path, datasets, columns, ledger)
    record = {
        "meta_path": str(args.meta_path),
        "rows": len(columns),
        "stays": len(ledger.staying()),
        "data_sets": counts,
        "decontamination": leaks,
        "settings": {
            name: value if isinstance(value, int | float | list) else str(value)
            for name, value in vars(args).items()
            if value is not None and name != "held_out"
        }
        | {"held_out": [str(path) for path in args.held_out or []]},
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_atomically(args.out / "curation.json", [json_text(record)])
    return record


def run_filters(columns: Columns, ledger: DropLedger, hashes: PictureHashes, args: argparse.Namespace) -> None:
    """The filters behind decontamination, in order."""
    if args.sampled:
        from tools.curation.difficulty import right_shares  # the answer checks: nothing else here needs them

        keep_difficulty(columns, ledger, right_shares(args.sampled, args.out), args.least_right, args.most_right)
    if args.languages:
        keep_languages(columns, ledger, args.languages)
    if args.near_duplicates:
        drop_repeated_pairs(columns, ledger)
        drop_near_duplicates(columns, ledger, hashes)
    if args.pairs_per_prompt is not None:
        limit_pairs(columns, ledger, args.pairs_per_prompt, args.seed)
    if args.most_longer is not None:
        balance_lengths(columns, ledger, args.most_longer, args.seed)


def write_rows(
    out: Path, meta_path: Path, datasets: Sequence[MixedDataset], columns: Columns, ledger: DropLedger
) -> None:
    """Write the rows that stay, meta.json, and the ledger."""
    entries = {}
    for number, data in enumerate(datasets):
        first = int(columns.first[number])
        staying = ledger.count(first, first + len(data.rows))
        if not staying:
            continue
        target = out / output_name(data)
        lines = (line for row, (line, _) in enumerate(lines_of(data)) if ledger.stays(first + row))
        write_atomically(target, (line + b"\n" for line in lines))
        root = data.root if "://" in data.root else os.path.relpath(os.path.realpath(data.root), os.path.realpath(out))
        spec = replace(data.spec, root=root, annotation=str(output_name(data)), length=staying)
        entries[data.spec.name] = spec.to_entry()
    write_atomically(out / "left_out.jsonl", map(json_line, ledger.rows()))
    write_atomically(out / "meta.json", [json_text(entries)])


def tell(record: dict[str, Any], out: Path) -> None:
    """Print the counts."""
    for name, counts in record["data_sets"].items():
        left = ", ".join(f"{count:,} {filter}" for filter, count in counts.items() if filter not in ("rows", "stays"))
        print(f"{name}: {counts['stays']:,} of {counts['rows']:,} rows stay{'; left: ' + left if left else ''}")
    if record["decontamination"]:
        print(f"decontamination: {record['decontamination']['headline']}")
    print(f"{out / 'meta.json'}: {record['stays']:,} of {record['rows']:,} rows, {record['seconds']:,.0f} s")


def main(argv: Sequence[str] | None = None) -> None:
    """Curate, and print what was counted; errors as of `curate`."""
    args = parse_arguments(argv)
    tell(curate(args), args.out)


if __name__ == "__main__":
    enter(main)
