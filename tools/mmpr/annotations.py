"""Annotations as published to annotations that train: paths found, rows that cannot be used left out and written down.

Paths in a published meta.json begin somewhere else: on the authors' cluster (`/mnt/.../MMPR/annotations/x.jsonl`), or
in a folder above (`MMPR-v1.2/images/ScienceQA`). The longest end of such a path that is there is what was meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from internvl_chat.data.images import ImageError, resolve_image
from internvl_chat.records.durable import write_atomically
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.rows import PreferencePair, Prompt, RecordError, Source, parse_row
from tools.mmpr.published import PrepareError
from tools.reasoning_data_pipeline.prompts.wording import split_placeholders

Reader = Callable[[dict[str, Any], Source], PreferencePair | Prompt]
EXAMPLES = 5  # missing images of a data set in the report; left_out.jsonl has all


@dataclass
class SetCounts:
    """What a file of rows holds: rows, those that can be used, without images, with several; why others cannot."""

    rows: int = 0
    usable: int = 0
    text_only: int = 0
    several_images: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    missing: set[str] = field(default_factory=set)  # images, with where they were looked for

    def to_json(self) -> dict[str, Any]:
        """As in prepared.json."""
        found = {**vars(self), "faults": dict(self.faults.most_common()), "missing": sorted(self.missing)[:EXAMPLES]}
        return {**found, "missing_images": len(self.missing)}

    def leave_out(self, error: RecordError | ImageError, where: Source) -> dict[str, Any]:
        """Count a row that cannot be used; its line of left_out.jsonl."""
        reason = error.reason if isinstance(error, RecordError) else str(error)
        self.faults[error.fault] += 1
        if isinstance(error, ImageError):
            self.missing.add(reason)
        return {"file": where.file, "line": where.line, "fault": error.fault, "reason": reason}

    def take(self, images: tuple[str, ...]) -> None:
        """Count a row that can be used."""
        self.usable += 1
        self.text_only += not images
        self.several_images += len(images) > 1


class RowCheck:
    """Checks rows of one image root: form, placeholders, and that images are there, each image looked for once."""

    def __init__(self, read: Reader) -> None:
        """Check rows by `read`, which raises RecordError for those that are of another form."""
        self.read = read
        self._there: dict[int, ImageError | None] = {}

    def check(self, row: dict[str, Any], where: Source, root: str) -> tuple[str, ...]:
        """The images of a row.

        Raises:
            RecordError: it cannot be used.
            ImageError: an image is not there.
        """
        found = self.read(row, where)
        split_placeholders(found.question, len(found.image), where)
        for path in found.image:
            self._look(root, path)
        return found.image

    def _look(self, root: str, path: str) -> None:
        key = xxhash.xxh3_64_intdigest(f"{root}\0{path}".encode("utf-8", "surrogatepass"))
        if key not in self._there:
            try:
                resolve_image(root, path)
                self._there[key] = None
            except ImageError as error:
                self._there[key] = error
        problem = self._there[key]
        if problem is not None:
            raise problem


def find_end(path: str, bases: Iterable[Path], is_there: Callable[[Path], bool]) -> Path | None:
    """The longest end of a published path that is there below one of the folders; None where no end is."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for first in range(len(parts)):
        for base in bases:
            candidate = base.joinpath(*parts[first:])
            if is_there(candidate):
                return candidate
    return None


def scan(path: Path, root: Path, check: RowCheck, left_out: list[dict[str, Any]]) -> SetCounts:
    """Check all rows of a file.

    Args:
        path: of the JSONL file.
        root: folder of its images.
        check: of its rows.
        left_out: gets {file, line, fault, reason} of every row that cannot be used.
    """
    counts, lines = SetCounts(), JsonlFile(path)
    for line, line_no in (lines[index] for index in range(len(lines))):
        where = Source(str(path), line_no)
        counts.rows += 1
        try:
            images = check.check(parse_row(line, *where), where, str(root))
        except (RecordError, ImageError) as error:
            left_out.append(counts.leave_out(error, where))
            continue
        counts.take(images)
    return counts


def usable_file(path: Path, target: Path, left_out: list[dict[str, Any]]) -> Path:
    """The file to train on: as published where all rows can be used, else `target`, a copy without the others."""
    if not left_out:
        return path
    gone = {entry["line"] for entry in left_out}
    lines = JsonlFile(path)
    kept = (line + b"\n" for line, line_no in (lines[row] for row in range(len(lines))) if line_no not in gone)
    write_atomically(target, kept)
    return target


def annotation_files(folder: Path) -> Iterator[Path]:
    """The JSONL files below a folder, in order.

    Raises:
        PrepareError: there is none.
    """
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise PrepareError(f"{folder}: no *.jsonl below it: is its zip the published one? Fetch it again from the hub")
    yield from files
