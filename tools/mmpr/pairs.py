"""MMPR, v1.1 and v1.2 as unpacked, to a meta.json that trains: paths relative to itself, rows usable and counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from internvl_chat.records.durable import json_line, json_text, write_atomically
from internvl_chat.records.meta import DatasetSpec, read_entries
from internvl_chat.records.rows import PreferencePair
from internvl_chat.run.bars import track
from tools.mmpr.annotations import RowCheck, SetCounts, find_end, scan, usable_file
from tools.mmpr.published import META, PrepareError

LEFT_OUT = "left_out.jsonl"
USABLE = "usable"  # folder of copies without the rows that cannot be used


@dataclass(frozen=True)
class PreparedSet:
    """One data set: its entry to be written, what was counted, and the rows left out."""

    spec: DatasetSpec
    counts: SetCounts
    left_out: list[dict[str, Any]]


def prepare_pairs(folder: Path, published_meta: Path) -> dict[str, Any]:
    """Write meta.json and left_out.jsonl of an unpacked set; returns the counts by data set, as JSON values.

    Args:
        folder: with `images` and `annotations`, unpacked; meta.json goes there.
        published_meta: as it was downloaded.

    Raises:
        PrepareError: an annotation file is not there, or no row of any data set can be used.
        FileNotFoundError, ValueError: the published meta.json is not usable.
    """
    prepared = list(track(_data_sets(folder, published_meta), desc="data sets", unit="set"))
    entries = {one.spec.name: one.spec.to_entry() for one in prepared if one.counts.usable}
    if not entries:
        faults = {one.spec.name: dict(one.counts.faults) for one in prepared}
        raise PrepareError(f"{published_meta}: no row of its {len(prepared)} data sets can be used: {faults}")
    rows = (json_line({"data_set": one.spec.name, **row}) for one in prepared for row in one.left_out)
    write_atomically(folder / LEFT_OUT, rows)
    write_atomically(folder / META, [json_text(entries)])
    return {one.spec.name: one.counts.to_json() for one in prepared}


def _data_sets(folder: Path, published_meta: Path) -> Iterator[PreparedSet]:
    """The data sets in the order of the published file, checked."""
    check = RowCheck(PreferencePair.from_row)
    for name, entry in read_entries(published_meta).items():
        spec = DatasetSpec.from_entry(name, entry, str(published_meta))
        annotation = find_end(spec.annotation, (folder / "annotations", folder), os.path.isfile)
        if annotation is None:
            raise PrepareError(
                f"{published_meta}: data set {name!r}: no {Path(spec.annotation).name} below {folder / 'annotations'}: "
                "is annotations.zip of the same version as meta.json? Fetch both again"
            )
        root = find_end(spec.root, (folder, folder / "images"), os.path.isdir) or folder / "images"
        left_out: list[dict[str, Any]] = []
        counts = scan(annotation, root, check, left_out)
        target = folder / USABLE / f"{name.replace('/', '__')}.jsonl"
        file = usable_file(annotation, target, left_out)
        yield PreparedSet(
            replace(
                spec,
                root=root.relative_to(folder).as_posix(),
                annotation=file.relative_to(folder).as_posix(),
                length=counts.usable,
            ),
            counts,
            left_out,
        )
