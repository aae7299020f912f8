"""Prompt files: which rows are asked, under which key, and where their images lie."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from internvl_chat.data.images import ImageError, near_hint, resolve_image
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import RecordError, Source, parse_row, shown_path


@dataclass(frozen=True)
class Task:
    """One row to work on.

    Attributes:
        key: names it in the store, among the engine's requests, and in the seeds.
        where: file and line, for errors.
        row: the parsed row.
        samples: indices of the samples still to be made.
    """

    key: str
    where: Source
    row: dict[str, Any]
    samples: list[int]


class PromptFile:
    """The selected rows of a JSONL file; rows are read and parsed when they are asked for.

    A row's key is made of its line number, its bytes and `variant`: it changes with the row, so that a resume over
    an edited file is noticed, and two equal rows are still two prompts.
    """

    def __init__(self, path: Path, *, start: int = 0, limit: int | None = None, variant: str = "") -> None:
        """Select rows of `path`.

        Args:
            path: the prompt file.
            start: index of the first row, from 0.
            limit: rows to take, spread evenly: every floor(total / limit)-th from `start` on; None is all.
            variant: what tells this run over the file from another one, such as the tile limit.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: there are no rows, `start` lies behind the last row, or `limit` is below 1.
        """
        self.path = path
        self._lines = JsonlFile(path)
        self.total = len(self._lines)
        if not self.total:
            raise ValueError(f"{path}: no rows; --prompt-path names a JSONL file of prompts, one a line")
        self.rows = select_rows(self.total, start, limit)
        self.keys = [self._key(row, variant) for row in self.rows]
        self._row_of = dict(zip(self.keys, self.rows, strict=True))

    def where(self, key: str) -> Source:
        """File and line of the row under `key`."""
        return Source(str(self.path), self._lines.line_number(self._row_of[key]))

    def task(self, key: str, samples: list[int]) -> Task:
        """The row under `key`, parsed; RecordError when it is no JSON object."""
        line, line_no = self._lines[self._row_of[key]]
        where = Source(str(self.path), line_no)
        return Task(key, where, parse_row(line, *where), samples)

    def _key(self, row: int, variant: str) -> str:
        line, line_no = self._lines[row]
        return f"{line_no}-{xxhash.xxh3_64_hexdigest(line + variant.encode())}"


def select_rows(total: int, start: int, limit: int | None) -> range:
    """Indices of `limit` of `total` rows: every floor(total / limit)-th from `start` on.

    Fewer than `limit` where `start` leaves no room for them.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--sample-max-num must be at least 1, not {limit}")
    if start not in range(max(total, 1)):
        raise ValueError(f"--sample-start-idx {start} is not one of the {total} rows (from 0)")
    limit = total if limit is None else min(limit, total)
    step = total // max(limit, 1) or 1
    return range(start, min(total, start + step * limit), step)


def add_symlink_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--follow-symlinks`, in the spelling of the training's flags too."""
    reads = "also read images that are single files linked from elsewhere, as in the cache of a hub"
    parser.add_argument("--follow-symlinks", "--follow_symlinks", action="store_true", help=reads)


@dataclass(frozen=True)
class ImageRoots:
    """Where images are looked for: as given from the working directory, then under `root`, then beside the prompt file.

    Attributes:
        beside: folder of the prompt file.
        root: --image-root; with it, no path may lead out of it.
        follow_symlinks: also read a symlink of a single file that leads out of the root.
    """

    beside: Path
    root: Path | None = None
    follow_symlinks: bool = False

    def resolve(self, images: tuple[str, ...], where: Source) -> tuple[str, ...]:
        """Absolute paths of a row's images; RecordError when one is not there, or not where it may be."""
        try:
            return tuple(self._resolve(path) for path in images)
        except ImageError as error:
            raise RecordError(*where, str(error)) from error

    def _resolve(self, path: str) -> str:
        if "://" in path or path.startswith("data:") or "\0" in path:
            return resolve_image("", path)  # raises with the cure
        tried = self._candidates(path)
        found = next(filter(os.path.isfile, tried), None)
        if found is None:
            raise ImageError(f"{shown_path(path)}: {self._missing(path, tried)}", "image_missing")
        root = str(self.root) if self.root else os.path.dirname(found)
        inside = os.path.relpath(found, os.path.abspath(root))
        return resolve_image(root, inside, allow_file_symlinks=self.follow_symlinks)

    def _missing(self, path: str, tried: list[str]) -> str:
        """What is said of an image that is not there: where it was looked for, and a name that is near."""
        places = ", ".join(map(shown_path, tried)) or "nothing"
        bases = (self.root,) if self.root else (Path(), self.beside)
        hint = next(filter(None, (near_hint(str(base), path) for base in bases)), "")
        return f"no such image{hint}; tried {places}{self._limits()}"

    def _candidates(self, path: str) -> list[str]:
        """Absolute paths to try, in order; with a root, only those under it."""
        bases = [Path(), self.root or Path(), self.beside]
        allowed = os.path.join(os.path.abspath(self.root), "") if self.root else ""
        full = dict.fromkeys(os.path.abspath(base / path) for base in bases)
        return [candidate for candidate in full if candidate.startswith(allowed)]

    def _limits(self) -> str:
        return f" (paths may not lead out of --image-root {self.root})" if self.root else " (see --image-root)"
