"""Prompts to those to train on and those to evaluate on, the same in every run and on every machine.

    python -m tools.evaluation.split --prompts a.jsonl b.jsonl --out questions --share 0.1
    python -m tools.evaluation.split --prompts a.jsonl --held-out my_test.jsonl --out questions

A hash of a row's pictures (of its question where it has none) decides, so all questions about a picture fall on one
side, and rows that are added later move none. Writes <out>/train/<file>, <out>/held_out/<file>, with options put into
the question as `tools.evaluation.questions` does, and <out>/image_root, the folder that image paths start from. Rows to
train on that are held out too, by picture or question, are left out and counted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import xxhash

from internvl_chat.records.durable import json_line, write_atomically
from internvl_chat.records.rows import Prompt
from internvl_chat.run.entry import Parser, enter
from tools.evaluation.questions import read_rows, right_answers
from tools.reasoning_data_pipeline.prompts.files import ImageRoots, add_symlink_flag

OPTION_FIELDS = frozenset({"choices", "options", *ascii_uppercase})
BUCKETS = 1 << 32


@dataclass(frozen=True)
class Item:
    """A row: `key` decides its side, `prompt` has whole image paths and its options in the question."""

    key: str
    prompt: Prompt

    @property
    def subject(self) -> tuple[str, ...]:
        """What the question is about: its pictures, else its text."""
        return self.prompt.image or (self.prompt.question,)


Files = dict[str, list[Item]]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, help="prompt files with answers")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], help="files to hold out, instead of a share")
    parser.add_argument("--share", type=float, default=0.1, help="of --prompts to hold out (default: %(default)s)")
    parser.add_argument("--image-root", type=Path, help="folder of the images, as for sampling")
    add_symlink_flag(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser.parse_args(argv)


def split(args: argparse.Namespace) -> None:
    """Write both sides of `args` (of `parse_arguments`).

    Raises:
        ValueError: a share outside of (0, 1), two files of one name, or a side without a row.
        RecordError: a row is not usable.
    """
    if not 0 < args.share < 1:
        raise ValueError(f"--share {args.share} must lie between 0 and 1")
    files = read_files(args.prompts, args.image_root, args.follow_symlinks)
    if args.held_out:
        held_out = read_files(args.held_out, args.image_root, args.follow_symlinks)
        known = {item.subject for items in held_out.values() for item in items}
        train = keep(files, lambda item: item.subject not in known)
    else:
        held_out = keep(files, lambda item: is_held_out(item.key, args.share))
        train = keep(files, lambda item: not is_held_out(item.key, args.share))
    sides = {"train": train, "held_out": held_out}
    for side, found in sides.items():
        if not found:
            raise ValueError(f"{args.prompts}: no row is left for {side}: change --share {args.share}, or add prompts")
    write(sides, args.out)
    rows, kept, held = (sum(map(len, found.values())) for found in (files, train, held_out))
    left_out = rows - kept if args.held_out else 0
    print(f"{args.out}: {kept} questions to train on, {held} held out; {left_out} about the same as these left out")


def keep(files: Files, wanted: Callable[[Item], bool]) -> Files:
    """The wanted rows of each file; files without any are left out."""
    kept = {name: list(filter(wanted, items)) for name, items in files.items()}
    return {name: items for name, items in kept.items() if items}


def write(sides: Mapping[str, Files], out: Path) -> None:
    """Write all files, their image paths from the folder that all images share."""
    prompts = [item.prompt for files in sides.values() for items in files.values() for item in items]
    folders = {os.path.dirname(path) for prompt in prompts for path in prompt.image}
    root = os.path.commonpath(folders) if folders else "."
    for side, files in sides.items():
        for name, items in files.items():
            write_atomically(out / side / name, (json_line(_row(item.prompt, root)) for item in items))
    write_atomically(out / "image_root", [root.encode()])


def _row(prompt: Prompt, root: str) -> dict[str, Any]:
    return replace(prompt, image=tuple(os.path.relpath(path, root) for path in prompt.image)).to_row()


def read_files(paths: Sequence[Path], image_root: Path | None, follow_symlinks: bool = False) -> Files:
    """File name -> its rows.

    Raises:
        ValueError: two files have one name.
        RecordError: a row is not usable.
    """
    if len({path.name for path in paths}) < len(paths):
        raise ValueError(f"{[str(path) for path in paths]}: two files of one name; give each a name of its own")
    return {path.name: list(_read_file(path, image_root, follow_symlinks)) for path in paths}


def _read_file(path: Path, image_root: Path | None, follow_symlinks: bool) -> Iterator[Item]:
    images = ImageRoots(path.parent, image_root, follow_symlinks)
    for row in read_rows(path):
        written = row.prompt
        extra = {name: value for name, value in written.extra.items() if not (row.options and name in OPTION_FIELDS)}
        prompt = replace(
            written,
            image=images.resolve(written.image, row.where),
            question=row.body,
            answer=right_answers(written, row.options, row.where),
            extra=extra,
        )
        yield Item("\0".join(written.image) or written.question, prompt)


def is_held_out(key: str, share: float) -> bool:
    """Whether a row is among the `share` that is held out."""
    return xxhash.xxh3_64_intdigest(key.encode()) % BUCKETS < share * BUCKETS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors as of `split`."""
    split(parse_arguments(argv))


if __name__ == "__main__":
    enter(main)
