"""Preference pairs as other trainers and hubs have them to MMPR rows, image files and meta.json.

    hf download openbmb/RLAIF-V-Dataset --repo-type dataset --local-dir RLAIF-V-Dataset
    python tools/import_pairs.py --parquet RLAIF-V-Dataset/*.parquet --out rlaif_v
    python tools/import_pairs.py --rows rlhf.json --root pictures --out rlhf

--parquet names tables with their pictures inside, --rows JSONL files or JSON lists that name pictures by a path. The
layout of a file is told by its fields: those of RLAIF-V (arXiv 2405.17220), MMPR and `tools/publish.py`, of TRL,
LLaMA-Factory (ShareGPT and Alpaca), ms-swift and OpenAI; `tools/importing/layouts.py` lists them, a file of none is
refused. Earlier turns become `history`, further fields are kept. Writes below --out:

    images/<2 digits>/<hash>.<type>   each picture once, its bytes as they were; a file as a hard link where possible
    pairs.jsonl, meta.json            ready for training
    rejects.jsonl                     rows that could not be used, and why
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvl_chat.data.images import ImageError
from internvl_chat.model.conversation import THINKING_SYSTEM_MESSAGE
from internvl_chat.records.durable import json_line, json_text, write_atomically
from internvl_chat.records.meta import DatasetSpec
from internvl_chat.records.rows import RecordError, Source
from internvl_chat.run.bars import track
from internvl_chat.run.entry import Parser, at_least, enter
from tools.importing.layouts import OURS
from tools.importing.pairs import PairReader
from tools.importing.pictures import PictureStore
from tools.importing.sources import ImportedFile, as_row, open_file

IMAGES, PAIRS, REJECTS = "images", "pairs.jsonl", "rejects.jsonl"  # below --out


@dataclass
class Imported:
    """What came of an import: pairs written, rows that could not be used, what JSON could not hold, files by layout."""

    length: int = 0
    rejects: list[dict[str, Any]] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    layouts: Counter[str] = field(default_factory=Counter)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", type=Path, nargs="+", default=[], help="tables to read")
    parser.add_argument("--rows", type=Path, nargs="+", default=[], help="JSONL files, or JSON lists, to read")
    parser.add_argument(
        "--root",
        type=Path,
        help="folder of pictures that rows name by a path (default for --rows: the folder of each file)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--max-num", type=at_least(1), default=12, help="tile limit of a picture, for meta.json")
    parser.add_argument(
        "--system_prompt", help="take rows with this system message; train with the same flag (default: the template's)"
    )
    parser.add_argument("--follow_symlinks", action="store_true", help="read pictures that are links out of their root")
    args = parser.parse_args(argv)
    if not args.parquet and not args.rows:
        parser.error("name files by --parquet or --rows")
    if args.root is not None and not args.root.is_dir():
        parser.error(f"--root {args.root}: no such folder")
    return args


def import_pairs(args: argparse.Namespace) -> Imported:
    """Write the pairs of the files of a command line; what --out holds of an earlier import is replaced.

    Raises:
        ValueError: a file is of another kind, of no known layout, or would be written over; names it and what it has.
        FileNotFoundError: a file is not there.
    """
    files = [open_file(path, is_table=True) for path in args.parquet]
    files += [open_file(path, is_table=False) for path in args.rows]
    check_not_written_over(files, args.out)
    done = Imported(layouts=Counter(str(file.layout) for file in files if file.layout))
    annotation = args.out / PAIRS
    write_atomically(annotation, (json_line(row) for file in files for row in usable_rows(file, args, done)))
    # relative to meta.json: the folder can be moved
    name, tiles = args.out.resolve().name, args.max_num
    spec = DatasetSpec(name, IMAGES, annotation.name, max_dynamic_patch=tiles, length=done.length)
    write_atomically(args.out / "meta.json", [json_text({spec.name: spec.to_entry()})])
    write_atomically(args.out / REJECTS, map(json_line, done.rejects))
    return done


def check_not_written_over(files: Sequence[ImportedFile], out: Path) -> None:
    """Raise ValueError where a file that is read is one that will be written."""
    written = {(out / name).resolve() for name in (PAIRS, REJECTS, "meta.json")}
    if same := [file.path for file in files if file.path.resolve() in written]:
        raise ValueError(f"{same[0]}: is read and would be written over; name another folder by --out")


def usable_rows(file: ImportedFile, args: argparse.Namespace, done: Imported) -> Iterator[dict[str, Any]]:
    """The rows of a file as MMPR has them, their pictures saved; counts in `done` what became of each."""
    root = args.root or (None if file.is_table else file.path.parent)
    store = PictureStore(args.out / IMAGES, root, follow_symlinks=args.follow_symlinks)
    system = THINKING_SYSTEM_MESSAGE if args.system_prompt == "thinking" else args.system_prompt  # as training reads it
    reader = PairReader(file.layout or OURS, store, system, done.left_out)
    for number, entry in track(file.entries(), desc=file.path.name, total=file.total, unit="row"):
        where = Source(str(file.path), number)
        try:
            row = reader.pair_row(as_row(entry, where), where)
        except (RecordError, ImageError) as error:
            done.rejects.append({"file": where.file, "line": where.line, "reason": str(error)})
            continue
        done.length += 1
        yield row


def main(argv: Sequence[str] | None = None) -> int:
    """Import, and say what was counted; 1 where no row could be used."""
    args = parse_arguments(argv)
    done = import_pairs(args)
    counted = f"{done.length} pairs, {len(done.rejects)} rows could not be used (rejects.jsonl)"
    layouts = "; ".join(f"{count} of {layout}" for layout, count in done.layouts.items())
    print(f"{args.out / 'meta.json'}: {counted}; files by layout: {layouts or 'none'}")
    if done.left_out:
        print(f"fields left out, as JSON cannot hold them: {', '.join(sorted(done.left_out))}")
    if done.length:
        return 0
    reason = f"the first is {done.rejects[0]['reason']}" if done.rejects else "the files have no rows"
    print(f"error: no pair was made: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    enter(main)
