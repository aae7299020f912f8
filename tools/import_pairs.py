"""Preference pairs that a hub publishes as parquet files, pictures included, to MMPR rows, image files and meta.json.

    hf download openbmb/RLAIF-V-Dataset --repo-type dataset --local-dir RLAIF-V-Dataset
    python tools/import_pairs.py --parquet RLAIF-V-Dataset/*.parquet --out rlaif_v

Columns are those of RLAIF-V (arXiv 2405.17220): `question`, `chosen`, `rejected`, and `image`, the bytes of a picture
or {bytes, path}; further columns of texts and numbers are kept. Or those that `tools/publish.py` writes: `images`, a
list of pictures, and `extra`, further fields as JSON, which become fields again. Writes below --out:

    images/<2 digits>/<hash>.<type>   each picture once, its bytes as they were
    pairs.jsonl, meta.json            ready for training
    rejects.jsonl                     rows that could not be used, and why
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import xxhash

from internvl_chat.data.images import ImageError, open_image
from internvl_chat.model.file_kinds import wrong_kind
from internvl_chat.records.durable import json_line, json_text, write_atomically
from internvl_chat.records.meta import DatasetSpec
from internvl_chat.records.rows import PreferencePair, RecordError, Source, shown
from internvl_chat.run.bars import track
from internvl_chat.run.entry import Parser, at_least, enter

COLUMNS = ("question", "chosen", "rejected")  # and pictures, in `images` or `image`
ROWS_AT_ONCE = 64  # with their pictures in memory


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", type=Path, nargs="+", required=True, help="files to read")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--max-num", type=at_least(1), default=12, help="tile limit of a picture, for meta.json")
    return parser.parse_args(argv)


def import_pairs(files: Sequence[Path], out: Path, max_tiles: int) -> tuple[int, list[dict[str, Any]]]:
    """Write the pairs of parquet files below `out`; returns their number and the rows that could not be used.

    Args:
        files: in the order in which their rows are to stand.
        out: folder, made; what it holds of an earlier import is replaced.
        max_tiles: `max_dynamic_patch` of the meta.json entry.

    Raises:
        ValueError: a file is no parquet file, or lacks one of the columns; names it and what it has.
        FileNotFoundError: a file is not there.
    """
    for file in files:
        check_columns(file)
    rejects: list[dict[str, Any]] = []
    images, annotation = out / "images", out / "pairs.jsonl"
    write_atomically(annotation, (json_line(row) for row in usable_rows(files, images, rejects)))
    with annotation.open("rb") as lines:
        length = sum(1 for _ in lines)
    # relative to meta.json: the folder can be moved
    spec = DatasetSpec(out.resolve().name, images.name, annotation.name, max_dynamic_patch=max_tiles, length=length)
    write_atomically(out / "meta.json", [json_text({spec.name: spec.to_entry()})])
    write_atomically(out / "rejects.jsonl", map(json_line, rejects))
    return length, rejects


def check_columns(file: Path) -> None:
    """Raise FileNotFoundError without a file, ValueError where it is no parquet file or lacks one of the columns."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; --parquet names parquet files, see data/README.md")
    if wrong := wrong_kind(file, "parquet"):
        raise ValueError(f"{file}: {wrong}")
    try:
        names = pq.read_schema(file).names
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: cannot be read as parquet ({error}); fetch it again") from error
    wanted = ("images" if "images" in names else "image", *COLUMNS)
    if lacking := [name for name in wanted if name not in names]:
        raise ValueError(f"{file}: no column {', '.join(lacking)}; the file has {', '.join(names)}")


def usable_rows(files: Sequence[Path], images: Path, rejects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows as MMPR has them, their pictures saved below `images`; appends to `rejects` what cannot be used."""
    for file in files:
        table = pq.ParquetFile(file)
        with track(desc=file.name, total=table.metadata.num_rows, unit="row") as progress:
            rows = (row for batch in table.iter_batches(ROWS_AT_ONCE) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                where = Source(str(file), number)
                try:
                    yield pair_row(row, images, where)
                except (RecordError, ImageError) as error:
                    rejects.append({"file": where.file, "line": where.line, "reason": str(error)})
                progress.update()


def pair_row(row: Mapping[str, Any], images: Path, where: Source) -> dict[str, Any]:
    """One row as MMPR has it, its pictures saved.

    Raises:
        RecordError: a field is missing or of a wrong type.
        ImageError: what should be a picture is none.
    """
    kept = {name: value for name, value in row.items() if isinstance(value, str | int | float)}
    if "images" in row:
        kept = {**published_fields(kept.pop("extra", None)), **kept}
    contents = picture_contents(row, where)
    pair = PreferencePair.from_row({**kept, "image": ["in the table"] * len(contents) or None}, where)
    paths = [save_image(content, images) for content in contents]
    named = {"image": paths if len(paths) > 1 else paths[0]} if paths else {}
    return {**named, **{name: value for name, value in pair.to_row().items() if name != "image"}}


def picture_contents(row: Mapping[str, Any], where: Source) -> list[bytes]:
    """The bytes of a row's pictures: one in `image`, any number in `images`; RecordError where they are something else.

    A picture is its bytes, or {bytes, path}.
    """
    column = "images" if "images" in row else "image"
    cells = (row["images"] or []) if column == "images" else [row["image"]]
    contents: list[bytes] = []
    for cell in cells:
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if not isinstance(content, bytes):
            raise RecordError(*where, f"column {column!r} must hold the bytes of a picture, not {shown(content)}")
        contents.append(content)
    return contents


def published_fields(text: Any) -> dict[str, Any]:
    """The further fields of a published row, from their JSON; what is no JSON object stays the text that it is."""
    if not isinstance(text, str):
        return {}
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        fields = None
    return fields if isinstance(fields, dict) else {"extra": text}


def save_image(content: bytes, images: Path) -> str:
    """Save a picture under its hash; returns its path below `images`. ImageError if it is none."""
    digest = xxhash.xxh3_128_hexdigest(content)
    arrived = images / digest[:2] / digest
    write_atomically(arrived, [content])
    try:
        with open_image(str(arrived)) as image:
            path = arrived.with_suffix(f".{(image.format or 'image').lower()}")
        arrived.replace(path)
    finally:
        arrived.unlink(missing_ok=True)
    return path.relative_to(images).as_posix()


def main(argv: Sequence[str] | None = None) -> int:
    """Import, and say what was counted; 1 where no row could be used."""
    args = parse_arguments(argv)
    length, rejects = import_pairs(args.parquet, args.out, args.max_num)
    print(f"{args.out / 'meta.json'}: {length} pairs, {len(rejects)} rows could not be used (rejects.jsonl)")
    if length:
        return 0
    reason = f"the first is {rejects[0]['reason']}" if rejects else "the files have no rows"
    print(f"error: no pair was made: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    enter(main)
