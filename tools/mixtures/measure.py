"""What a mixture costs: rows, drawn pairs and tokens of each data set, tokens estimated from a sample of its rows.

Text counts as one token per four characters, pictures as their own tiles of 256 tokens; prompt and pictures count once
a pair, as packed rows compute them. `tools/validate.py` with a checkpoint counts exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from internvl_chat.data.images import ImageError, Tiling, count_tiles, open_image, resolve_image
from internvl_chat.data.mixture import MixedDataset, open_dataset
from internvl_chat.records.meta import DatasetSpec, read_meta
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_TILE = 256
# Kinds of the published data sets by their names, first fit counts.
KINDS = (
    ("correctness", re.compile(r"_correctness_rules$")),
    ("format", re.compile(r"_format_rules$")),
    ("direct", re.compile(r"_direct_rules$")),
    ("DropoutNTP", re.compile(r"prefix_pair|_sr0\.\d+")),
)


@dataclass
class Sampled:
    """Means over the sampled rows of a data set: tokens of a pair, its tiles; and how many could not be read."""

    tokens: float = 0.0
    tiles: float = 0.0
    unreadable: int = 0


@dataclass(frozen=True)
class MixturePart:
    """A data set in a mixture."""

    spec: DatasetSpec
    rows: int
    drawn: int
    sampled: Sampled = field(default_factory=Sampled)

    @property
    def kind(self) -> str:
        """By the name, as the published sets are named."""
        return next((kind for kind, pattern in KINDS if pattern.search(self.spec.name)), "other")

    @property
    def tokens(self) -> float:
        """Of an epoch."""
        return self.drawn * self.sampled.tokens


def open_all(meta_paths: Iterable[Path]) -> dict[str, MixedDataset]:
    """The data sets of some meta.json files by name, in order.

    Raises:
        FileNotFoundError, ValueError: of `Mixture.from_meta`; or a name stands in two files.
    """
    found: dict[str, MixedDataset] = {}
    for meta_path in meta_paths:
        for spec in read_meta(meta_path):
            if spec.name in found:
                raise ValueError(f"{meta_path}: data set {spec.name!r} is in another meta.json too; rename one")
            found[spec.name] = open_dataset(spec, len(found), meta_path)
    return found


def measure(data: MixedDataset, number: int, tiling: Tiling) -> Sampled:
    """Look at `number` rows of a data set, spread evenly."""
    total = len(data.rows)
    chosen = range(0, total, max(1, total // number))[:number] if number else range(0)
    sampled, seen = Sampled(), 0
    for row in chosen:
        line, line_no = data.rows[row]
        where = Source(data.rows.path, line_no)
        try:
            pair = PreferencePair.from_row(parse_row(line, *where), where, allow_no_rejected=True)
            tiles = count_row_tiles(pair, data, tiling)
        except (RecordError, ImageError):
            sampled.unreadable += 1
            continue
        seen += 1
        characters = len(pair.conversation) + len(pair.chosen) + len(pair.rejected or "")
        sampled.tokens += characters / CHARACTERS_PER_TOKEN + tiles * TOKENS_PER_TILE
        sampled.tiles += tiles
    return Sampled(sampled.tokens / max(seen, 1), sampled.tiles / max(seen, 1), sampled.unreadable)


def count_row_tiles(pair: PreferencePair, data: MixedDataset, tiling: Tiling) -> int:
    """Tiles of a row's pictures, by their headers; ImageError where one cannot be opened."""
    sizes = []
    for path in pair.image:
        with open_image(resolve_image(data.root, path)) as image:
            sizes.append(image.size)
    grids = tiling.plan(sizes, max_num=data.spec.max_dynamic_patch) if sizes else []
    return sum(count_tiles(grid, tiling.use_thumbnail) for grid in grids)


def by_kind(parts: Iterable[MixturePart]) -> Mapping[str, tuple[int, float]]:
    """Kind -> pairs and tokens of an epoch."""
    found: dict[str, tuple[int, float]] = {}
    for part in parts:
        pairs, tokens = found.get(part.kind, (0, 0.0))
        found[part.kind] = (pairs + part.drawn, tokens + part.tokens)
    return found
