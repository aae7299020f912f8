"""MMPR-v1.2-prompts and MMPR-Tiny as unpacked, to prompt files in the pipelines' format.

    prompts/correctness/<name>.jsonl   {"image", "question", "answer"}: for the correctness pipeline
    prompts/dropoutntp/<name>.jsonl    {"image", "question", "chosen", "rejected": null}: for DropoutNTP
    prompts.jsonl                      {"image", "question", "answer"}: MMPR-Tiny, for online training

Image paths are relative to the folder of the set: give it as `--image-root`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from internvl_chat.data.images import ImageError
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.records.durable import json_line, write_atomically
from internvl_chat.records.jsonl import JsonlFile
from internvl_chat.records.meta import read_entries
from internvl_chat.records.rows import Prompt, RecordError, Source, parse_row, shown
from internvl_chat.run.bars import track
from tools.mmpr.annotations import Reader, RowCheck, SetCounts, annotation_files, find_end
from tools.mmpr.pairs import LEFT_OUT
from tools.mmpr.published import PrepareError

READERS: dict[str, Reader] = {
    "correctness": Prompt.from_row,
    "dropoutntp": partial(Prompt.from_row, allow_no_answer=True),  # `chosen` may still have to be generated
}
NUMBERED = re.compile(r"<image[ _]?(\d+)>")
TABLE_COLUMNS = ("images", "reward_model", "extra_info")
ROWS_AT_ONCE = 1024
PROMPTS = "prompts"  # folder of prompt files


class PromptWriter:
    """Writes prompt files of one set; keeps what was counted and left out."""

    def __init__(self, folder: Path, image_folders: Iterable[Path], read: Reader) -> None:
        """Images are looked for below `image_folders` and written relative to `folder`."""
        self.folder, self.bases = folder, [*image_folders, folder]
        self.check = RowCheck(read)
        self.left_out: list[dict[str, Any]] = []
        self._found: dict[str, str] = {}

    def write(
        self, target: Path, rows: Iterable[tuple[Source, Mapping[str, Any] | RecordError]], root: str = ""
    ) -> SetCounts:
        """Write the rows that can be used; `root` is what their image paths are relative to, where that is known."""
        counts = SetCounts()
        write_atomically(target, map(json_line, self._usable(rows, root, counts)))
        return counts

    def _usable(
        self, rows: Iterable[tuple[Source, Mapping[str, Any] | RecordError]], root: str, counts: SetCounts
    ) -> Iterator[dict[str, Any]]:
        for where, row in rows:
            counts.rows += 1
            try:
                if isinstance(row, RecordError):
                    raise row
                placed = self._place(row, root)
                images = self.check.check(placed, where, str(self.folder))
            except (RecordError, ImageError) as error:
                self.left_out.append(counts.leave_out(error, where))
                continue
            counts.take(images)
            yield placed

    def _place(self, row: Mapping[str, Any], root: str) -> dict[str, Any]:
        """The row with its image paths relative to the folder of the set."""
        image = row.get("image")
        if isinstance(image, str) and image:
            return {**row, "image": self._find(image, root)}
        if isinstance(image, list):
            return {**row, "image": [self._find(path, root) if isinstance(path, str) else path for path in image]}
        return dict(row)

    def _find(self, path: str, root: str) -> str:
        """Where an image is, relative to the set; as it was where it is nowhere."""
        whole = f"{root.rstrip('/')}/{path}" if root else path
        if whole not in self._found:
            found = find_end(whole, self.bases, os.path.isfile)
            self._found[whole] = found.relative_to(self.folder).as_posix() if found else path
        return self._found[whole]


def prepare_prompts(folder: Path, kinds: Iterable[str]) -> dict[str, Any]:
    """Write the prompt files of both pipelines, or of one; returns the counts by file, as JSON values.

    Args:
        folder: of the set, with `<kind>_images` and `<kind>_prompts`, unpacked.
        kinds: keys of READERS.

    Raises:
        PrepareError: there is no file, or no row can be used.
    """
    counts, left_out = {}, []
    for kind in kinds:
        source = folder / f"{kind}_prompts"
        writer = PromptWriter(folder, [folder / f"{kind}_images"], READERS[kind])
        roots = _roots(source)
        for path in track(list(annotation_files(source)), desc=f"{kind} prompts", unit="file"):
            target = folder / PROMPTS / kind / path.relative_to(source)
            counts[f"{kind}/{path.stem}"] = writer.write(target, _rows(path), roots.get(path.name, ""))
        left_out += writer.left_out
    return _finish(folder, counts, left_out)


def prepare_online(folder: Path, table: Path) -> dict[str, Any]:
    """Write prompts.jsonl of MMPR-Tiny; returns the counts, as JSON values.

    Raises:
        PrepareError: the table lacks a column, or no row can be used.
    """
    names = pq.read_schema(table).names
    if lacking := [name for name in TABLE_COLUMNS if name not in names]:
        raise PrepareError(f"{table}: no column {', '.join(lacking)}; it has {', '.join(names)}: fetch it again")
    writer = PromptWriter(folder, [folder / "images"], Prompt.from_row)
    counts = {table.stem: writer.write(folder / "prompts.jsonl", _table_rows(table))}
    return _finish(folder, counts, writer.left_out)


def _finish(folder: Path, counts: dict[str, SetCounts], left_out: list[dict[str, Any]]) -> dict[str, Any]:
    write_atomically(folder / LEFT_OUT, map(json_line, left_out))
    if not any(found.usable for found in counts.values()):
        raise PrepareError(f"{folder}: no prompt can be used; {folder / LEFT_OUT} says why")
    return {name: found.to_json() for name, found in counts.items()}


def _roots(folder: Path) -> dict[str, str]:
    """Name of a prompt file -> root of its images, where a meta file beside the prompts says so."""
    roots = {}
    for path in folder.rglob("*.json"):
        with suppress(ValueError):  # another JSON file
            for entry in read_entries(path).values():
                if isinstance(entry, dict) and {"root", "annotation"} <= entry.keys():
                    roots[Path(str(entry["annotation"])).name] = str(entry["root"])
    return roots


def _rows(path: Path) -> Iterator[tuple[Source, Mapping[str, Any] | RecordError]]:
    lines = JsonlFile(path)
    for line, line_no in (lines[index] for index in range(len(lines))):
        where = Source(str(path), line_no)
        try:
            yield where, parse_row(line, *where)
        except RecordError as error:
            yield where, error


def _table_rows(table: Path) -> Iterator[tuple[Source, Mapping[str, Any] | RecordError]]:
    """The rows of mmpr_tiny.parquet as prompts; numbered from 1."""
    file = pq.ParquetFile(table)
    rows = (row for batch in file.iter_batches(ROWS_AT_ONCE) for row in batch.to_pylist())
    for number, row in enumerate(track(rows, total=file.metadata.num_rows, unit="row"), 1):
        where = Source(str(table), number)
        try:
            yield where, table_prompt(row, where)
        except RecordError as error:
            yield where, error


def table_prompt(row: Mapping[str, Any], where: Source) -> dict[str, Any]:
    """One row of mmpr_tiny.parquet as a prompt: {"image", "question", "answer"} and its texts and numbers.

    Raises:
        RecordError: question, answer or an image path is not there.
    """
    question = (row["extra_info"] or {}).get("question")
    answer = (row["reward_model"] or {}).get("ground_truth")
    images: list[Any] = [image.get("path") for image in row["images"] or [] if isinstance(image, Mapping)]
    if not isinstance(question, str) or answer is None or not all(isinstance(path, str) for path in images):
        have = {"question": question, "ground_truth": answer, "images": images}
        raise RecordError(
            *where, f"question, answer or the path of an image is missing: {shown(have)}", "missing_field"
        )
    question, images = number_placeholders(question, [str(path) for path in images])
    kept = {name: value for name, value in row.items() if isinstance(value, str | int | float)}
    return {**kept, "image": images[0] if len(images) == 1 else images, "question": question, "answer": answer}


def number_placeholders(question: str, images: list[str]) -> tuple[str, list[str]]:
    """A question with `<image_1>`, `<image_2>`, .. as one with `<image>`, and the images in the order of their places.

    An image that is named again stands as "image 1" there; one that is never named goes in front.
    """
    order: list[int] = []

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        if number in order or not 1 <= number <= len(images):
            return f"image {number}"
        order.append(number)
        return IMAGE_PLACEHOLDER

    placed = NUMBERED.sub(place, question)
    if not order:
        return question, images
    unnamed = [number for number in range(1, len(images) + 1) if number not in order]
    return f"{IMAGE_PLACEHOLDER}\n" * len(unnamed) + placed, [images[number - 1] for number in [*unnamed, *order]]
