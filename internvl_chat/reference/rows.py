"""Which answers a row has, known without opening its images: the key of an answer is made of pixels, that of a row not.

A second filling of a mixture that has grown asks here first and leaves out the rows whose answers are all in the cache.
An entry that is missing or no longer true costs time and nothing else: the training step looks log-probs up by content,
and where one is missing the run stops, the index is dropped (`CachedReference`), and the next run reads every row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
import xxhash

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import ImageError, resolve_image
from internvl_chat.data.mixture import Place
from internvl_chat.records.durable import stamp
from internvl_chat.records.objects import is_object
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row
from internvl_chat.records.samples import SIDES
from internvl_chat.reference.records import KEY_BYTES, KeyedRecords

ROW_RECORD = np.dtype([("key", f"S{KEY_BYTES}"), ("answers", f"S{KEY_BYTES}", (len(SIDES),))])


class RowIndex(KeyedRecords):
    """Row keys and the answers of these rows, in the folder of a cache; a row of one answer has it twice."""

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        """Open the index of a cache's folder, made when absent."""
        super().__init__(folder, ROW_RECORD, "rows.npy", suffix=".rows", rank=rank)

    def append(self, entries: dict[bytes, list[bytes]]) -> None:
        """Add rows by their keys, each with the keys of its one or two answers."""
        if entries:
            self.add([(key, (answers[0], answers[-1])) for key, answers in entries.items()])


def row_key(dataset: MixtureDataset, place: int) -> bytes | None:
    """16 bytes, the same while the row at a place, its files and what is made of them are the same.

    Files count by path, size and time of change. None for a row that has to be read to be known: it cannot be used, or
    its images are in an object store.
    """
    found = dataset.mixture.locate(place)
    line, number = found.data.rows[found.row]
    if is_object(found.data.root):
        return None
    try:
        files = _stamps(dataset, found, line, number)
    except (RecordError, ImageError, OSError):
        return None
    digest = xxhash.xxh3_128(line)
    digest.update(repr((files, _settings(dataset, found))).encode())
    return digest.digest()


def _stamps(dataset: MixtureDataset, found: Place, line: bytes, number: int) -> list[tuple]:
    """Path, size and time of change of each file that a row shows."""
    where = Source(found.data.rows.path, number)
    pair = PreferencePair.from_row(parse_row(line, *where), where, allow_no_rejected=True)
    names = pair.image if pair.video is None else (pair.video.path,)
    paths = [resolve_image(found.data.root, name, allow_file_symlinks=dataset.allow_file_symlinks) for name in names]
    return [(path, *stamp(path)) for path in paths]


def _settings(dataset: MixtureDataset, found: Place) -> tuple:
    """What decides ids and pixels of a row beside its files, as far as the name of the cache does not say it."""
    spec = found.data.spec
    copy = (dataset.seed, found.data.number, found.row, found.copy) if spec.data_augment else ()
    of_rows = (dataset.tiling, dataset.frames, dataset.max_seq_length, dataset.with_rejected)
    return (PIL.__version__, *of_rows, spec.max_dynamic_patch, copy)
