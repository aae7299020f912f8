"""The rows of a mixture as columns of numbers, a hundred bytes a row: what the filters work on, at any size.

Rows are numbered through all data sets. Texts stay in their files and are read again where a filter looks closer.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from internvl_chat.data.images import ImageError, resolve_image
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row
from internvl_chat.run.bars import track
from tools.curation.questions import text_key, words

FORGET_EVERY = 50_000  # rows read in order, after which the pages of their files are given back
FORGET_LOOKUPS = 1_000  # rows read here and there: each brings 64 kB of its file into memory


@dataclass
class Columns:
    """N rows and P different pictures.

    Attributes:
        datasets: in order.
        first: (datasets + 1,) row numbers at which they begin.
        usable: (N,) bool; what training would skip is left out at once.
        text: (N,) hashes of normalised questions.
        prompt: (N,) hashes of question and pictures, as in the file.
        pair: (N,) hashes of prompt and both answers.
        chosen, rejected: (N,) characters of the answers.
        picture_ends: (N,) ends of each row's part of `pictures`.
        pictures: numbers of the rows' pictures, 0 to P - 1, one row after the other.
        picture_row: (P,) a row that names each picture, and `picture_place`, (P,), which of its pictures it is.
        problems: reason by row, of those not usable.
        reads: rows read again so far.
    """

    datasets: Sequence[MixedDataset]
    first: np.ndarray
    usable: np.ndarray
    text: np.ndarray
    prompt: np.ndarray
    pair: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    picture_ends: np.ndarray
    pictures: np.ndarray
    picture_row: np.ndarray
    picture_place: np.ndarray
    problems: dict[int, str]
    reads: int = 0

    def __len__(self) -> int:
        return len(self.usable)

    def locate(self, row: int) -> tuple[MixedDataset, Source]:
        """Data set and place of a row."""
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        data = self.datasets[number]
        return data, Source(data.rows.path, data.rows.line_number(row - int(self.first[number])))

    def read(self, row: int) -> PreferencePair:
        """A usable row, read again."""
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        rows = self.datasets[number].rows
        line, line_no = rows[row - int(self.first[number])]
        self.reads += 1
        if self.reads % FORGET_LOOKUPS == 0:
            for data in self.datasets:
                data.rows.forget_pages()
        where = Source(rows.path, line_no)
        return PreferencePair.from_row(parse_row(line, *where), where, allow_no_rejected=True)

    def question(self, row: int) -> list[str]:
        """The words of a row's question."""
        return words(self.read(row).conversation)

    def pictures_of(self, row: int) -> np.ndarray:
        """Numbers of a row's pictures, in order."""
        begin = int(self.picture_ends[row - 1]) if row else 0
        return self.pictures[begin : int(self.picture_ends[row])]

    def pictures_among(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the different pictures of these rows, sorted."""
        taken = np.zeros(len(self), bool)
        taken[rows] = True
        counts = np.diff(self.picture_ends, prepend=np.uint32(0)).astype(np.int64)
        return np.unique(self.pictures[np.repeat(taken, counts)])

    def picture_path(self, picture: int) -> str:
        """The file of a picture; ImageError where it is not there."""
        row = int(self.picture_row[picture])
        data, _ = self.locate(row)
        return resolve_image(data.root, self.read(row).image[int(self.picture_place[picture])])

    def dataset_numbers(self) -> np.ndarray:
        """(N,) which data set each row is of."""
        return np.repeat(np.arange(len(self.datasets)), np.diff(self.first))

    def name(self, row: int) -> str:
        """A row in messages: data set and line."""
        data, where = self.locate(row)
        return f"{data.spec.name}:{where.line}"


@dataclass
class _ColumnReader:
    """Fills the columns row by row."""

    usable: array[int] = field(default_factory=lambda: array("B"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))  # text, prompt, pair, text, ..
    lengths: array[int] = field(default_factory=lambda: array("I"))  # chosen, rejected, chosen, ..
    ends: array[int] = field(default_factory=lambda: array("I"))
    keys: array[int] = field(default_factory=lambda: array("Q"))  # of pictures
    problems: dict[int, str] = field(default_factory=dict)

    def add(self, line: bytes, where: Source, root: str) -> None:
        """Read one row."""
        try:
            pair = PreferencePair.from_row(parse_row(line, *where), where, allow_no_rejected=True)
        except (RecordError, ImageError) as error:
            self.problems[len(self.usable)] = error.reason if isinstance(error, RecordError) else str(error)
            self._append(0, (0, 0, 0), (0, 0))
            return
        rejected = pair.rejected or ""
        self.keys.extend(_hash(root, path) for path in pair.image)
        prompt = _hash(root, *pair.image, pair.conversation)
        hashes = (text_key(words(pair.conversation)), prompt, _hash(str(prompt), pair.chosen, rejected))
        self._append(1, hashes, (len(pair.chosen), len(rejected)))

    def _append(self, usable: int, hashes: tuple[int, int, int], lengths: tuple[int, int]) -> None:
        self.usable.append(usable)
        self.hashes.extend(hashes)
        self.lengths.extend(lengths)
        self.ends.append(len(self.keys))


def read_columns(datasets: Sequence[MixedDataset]) -> Columns:
    """Read all rows once."""
    reader = _ColumnReader()
    with track(total=sum(len(data.rows) for data in datasets), desc="rows", unit="row") as bar:
        for data in datasets:
            for line, where in lines_of(data):
                reader.add(line, where, data.root)
                bar.update()
    hashes = np.frombuffer(reader.hashes, np.uint64).reshape(-1, 3)
    lengths = np.frombuffer(reader.lengths, np.uint32).reshape(-1, 2)
    ends, keys = np.frombuffer(reader.ends, np.uint32), np.frombuffer(reader.keys, np.uint64)
    _, place, pictures = np.unique(keys, return_index=True, return_inverse=True)
    rows = np.searchsorted(ends, place, side="right")
    begins = np.where(rows > 0, ends[np.maximum(rows, 1) - 1], 0)
    return Columns(
        datasets=datasets,
        first=np.cumsum([0, *(len(data.rows) for data in datasets)]),
        usable=np.frombuffer(reader.usable, np.uint8).astype(bool),
        text=hashes[:, 0],
        prompt=hashes[:, 1],
        pair=hashes[:, 2],
        chosen=lengths[:, 0],
        rejected=lengths[:, 1],
        picture_ends=ends,
        pictures=pictures.astype(np.uint32),
        picture_row=rows.astype(np.uint32),
        picture_place=(place - begins).astype(np.uint32),
        problems=reader.problems,
    )


def lines_of(data: MixedDataset) -> Iterator[tuple[bytes, Source]]:
    """The rows of a data set with their places, without their file staying in memory."""
    for row in range(len(data.rows)):
        line, line_no = data.rows[row]
        yield line, Source(data.rows.path, line_no)
        if row % FORGET_EVERY == FORGET_EVERY - 1:
            data.rows.forget_pages()
    data.rows.forget_pages()


def _hash(*texts: str) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(texts).encode("utf-8", "surrogatepass"))


def draw_order(pair: np.ndarray, seed: int) -> np.ndarray:
    """A number for each row, (N,) uint64, by which a seeded choice is made: the row's own, wherever it stands."""
    mixed = (pair ^ np.uint64(xxhash.xxh3_64_intdigest(str(seed).encode()))) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def output_name(data: MixedDataset) -> Path:
    """Where the rows of a data set that stay are written, below the output folder."""
    return Path("annotations") / f"{data.spec.name.replace('/', '__')}.jsonl"
