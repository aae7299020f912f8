"""The pictures of the rows that a fault is shown by: a few thumbnails, bounded in total, or words where there is none.

Rows are read again, by line: what training refuses of a row need not keep its image from being looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from internvl_chat.data.mixture import MixedDataset
from internvl_chat.records.rows import RecordError, Source, own_keys, parse_row
from tools.pages.pictures import Picture, embed
from tools.validation.faults import FAULTS, FoundFault

ROWS, IMAGES = 3, 2  # rows of a kind of fault, images of a row
MAX_SIDE = 160  # pixels
MAX_CHARACTERS = 1_000_000  # of all pictures, as URIs; when they are spent, no further row is drawn
NO_ROOM = "left out: the page has its fill of pictures"

Thumbnails = dict[tuple[str, int], list[Picture]]
"""Pictures by the name of a fault and the place of its example, from 0."""


class _Row(NamedTuple):
    """A row with images: the place of its finding among the examples, the root, and paths below it."""

    place: int
    root: str
    paths: list[str]


def draw_thumbnails(
    examples: Mapping[str, Sequence[FoundFault]], datasets: Iterable[MixedDataset], *, follow_symlinks: bool = False
) -> Thumbnails:
    """Pictures of the first ROWS rows with images of each kind of fault, in the order of the catalogue.

    Args:
        examples: findings by the name of their fault.
        datasets: that the findings are of.
        follow_symlinks: see `resolve_image`.
    """
    opened = {(data.spec.name, data.rows.path): data for data in datasets}
    thumbnails: Thumbnails = {}
    room = MAX_CHARACTERS
    for fault in FAULTS:
        for row in islice(_rows_with_images(examples.get(fault, ()), opened), ROWS):
            if room > 0:
                pictures = [embed(row.root, path, MAX_SIDE, follow_symlinks=follow_symlinks) for path in row.paths]
            else:
                pictures = [Picture(path, problem=NO_ROOM) for path in row.paths]
            room -= sum(len(picture.uri or "") for picture in pictures)
            thumbnails[fault, row.place] = pictures
    return thumbnails


def _rows_with_images(found: Sequence[FoundFault], datasets: Mapping[tuple[str, str], MixedDataset]) -> Iterator[_Row]:
    """The rows of some findings that have images, each row once."""
    seen = set()
    for place, finding in enumerate(found):
        data = datasets.get((finding.dataset, finding.file))
        if data is None or not finding.line or finding[1:4] in seen or finding.fault == "image_unreachable":
            continue  # a store that could not be reached is not tried again for the sake of a picture
        seen.add(finding[1:4])
        if paths := image_paths(data, finding.line):
            # The image that the finding tells of first: the details of images hold their paths.
            paths.sort(key=lambda path: path not in finding.detail)
            yield _Row(place, data.root, paths[:IMAGES])


def image_paths(data: MixedDataset, line: int) -> list[str]:
    """What the row at a line names as its images; nothing where that cannot be told."""
    row = bisect_left(range(len(data.rows)), line, key=data.rows.line_number)
    where = Source(data.rows.path, line)
    try:
        image = own_keys(parse_row(data.rows[row][0], *where), where).get("image")
    except RecordError:
        return []
    paths = image if isinstance(image, list) else [image]
    return [path for path in paths if isinstance(path, str) and path]
