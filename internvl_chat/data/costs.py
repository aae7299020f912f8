"""What pairs cost a training step, known before the step is planned: their text, and the sizes of their images.

A cost is in tokens of the language model. Image tokens count twice, for on a tile the vision tower works about as much
as the decoder (InternVL2.5-2B: 722 of 773 GFLOP forward). Packed tokens, which fill the memory, are another measure:
there image tokens count once. Only headers of images are read.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import ImageError, count_tiles, open_image, resolve_image
from internvl_chat.data.mixture import BYTES_PER_TOKEN, MixedDataset
from internvl_chat.data.steps import Sizes
from internvl_chat.records.rows import RecordError, Source, parse_row
from internvl_chat.run.bars import track
from internvl_chat.run.process import gather_objects

WORK_PER_IMAGE_TOKEN = 2
THREADS = 16  # they wait for a file system most of the time
ROWS_AT_ONCE = 256
KEPT_SIZES = 1 << 16  # of images, which often come in several rows


@dataclass(frozen=True)
class PairSizes:
    """What pairs consist of, (P,) float32 each, in tokens.

    Attributes:
        image: tokens of the tiles of their pictures, 0 where they have none.
        prompt: text of their prompts, by its bytes.
        answers: text of their answers, by its bytes.
        per_tile: tokens of a tile; a row without pictures has a blank one in the vision tower.
        frame: tokens that the chat template puts around a prompt.
    """

    image: np.ndarray
    prompt: np.ndarray
    answers: np.ndarray
    per_tile: int
    frame: int = 0

    @property
    def picture_cost(self) -> np.ndarray:
        """Cost of the pictures, or of the blank tile."""
        return WORK_PER_IMAGE_TOKEN * np.maximum(self.image, self.per_tile)

    def shared_by(self, group_by: str) -> Sizes:
        """Costs and packed tokens, apart for what a group has in common: its `prompt`, or its `image`s.

        Groups are not known here: each pair is one of its own. Rows without pictures have the prompt in common.
        """
        of_prompt = (self.image == 0) if group_by == "image" else np.ones(len(self.image), bool)
        text = np.where(of_prompt, self.prompt, 0)
        rest = self.prompt - text + self.answers
        return Sizes(self.picture_cost + text, rest, np.arange(len(rest)), self.image + text + self.frame, rest)


def place_sizes(dataset: MixtureDataset, rank: int = 0, world_size: int = 1, *, quiet: bool = False) -> PairSizes:
    """What the pair at each place of an epoch consists of.

    Ranks share the reading and tell each other; a collective. A row that cannot be used has nothing but a blank tile:
    it is skipped when its turn comes, with the reason.

    Args:
        dataset: the mixture.
        rank: of this process.
        world_size: number of processes.
        quiet: show no progress.
    """
    sizes = []
    for data in dataset.mixture.datasets:
        own = _sizes_of_rows(dataset, data, range(rank, len(data.rows), world_size), quiet=quiet or rank > 0)
        by_row = np.empty((len(data.rows), 3), np.float32)
        for other, part in enumerate(gather_objects(own)):
            by_row[other::world_size] = part
        sizes.append(by_row[data.order % len(data.rows)])
    image, prompt, answers = np.concatenate(sizes).T.copy()
    return PairSizes(image, prompt, answers, dataset.rows.image.per_tile, dataset.frame())


def _sizes_of_rows(dataset: MixtureDataset, data: MixedDataset, rows: range, *, quiet: bool) -> np.ndarray:
    """Sizes (len(rows), 3) of rows of one data set."""
    tiles_of = lru_cache(KEPT_SIZES)(partial(num_tiles, dataset, data))

    def sizes_of_chunk(chunk: range) -> list[tuple[float, float, float]]:
        return [row_sizes(dataset, data, row, tiles_of) for row in chunk]

    chunks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    progress = track(desc=f"sizes of images of {data.spec.name}", total=len(rows), unit="row", disable=quiet)
    with ThreadPoolExecutor(THREADS) as pool, progress:
        sizes: list[tuple[float, float, float]] = []
        for part in pool.map(sizes_of_chunk, chunks):
            sizes += part
            progress.update(len(part))
    return np.array(sizes, np.float32).reshape(-1, 3)


def row_sizes(
    dataset: MixtureDataset, data: MixedDataset, row: int, tiles_of: Callable[[tuple[str, ...]], int]
) -> tuple[float, float, float]:
    """Tokens of the pictures, the prompt and the answers of a row; text is counted in bytes, at BYTES_PER_TOKEN."""
    line, number = data.rows[row]
    where = Source(data.rows.path, number)
    try:
        texts = dataset.texts_of(parse_row(line, *where), where)
    except RecordError:
        return 0.0, 0.0, 0.0
    answers = sum(len(answer.encode()) for answer in texts.answers)
    tiles = dataset.frames.most if texts.video else tiles_of(texts.images)
    image = dataset.rows.image.per_tile * tiles * (bool(texts.images) or texts.video)
    return image, len(texts.prompt.encode()) / BYTES_PER_TOKEN, answers / BYTES_PER_TOKEN


def num_tiles(dataset: MixtureDataset, data: MixedDataset, images: tuple[str, ...]) -> int:
    """Tiles of these images of a row, the blank one where there are none or one of them cannot be opened."""
    sizes = []
    try:
        for image in images:
            path = resolve_image(data.root, image, allow_file_symlinks=dataset.allow_file_symlinks)
            with open_image(path) as opened:
                sizes.append(opened.size)
    except ImageError:
        return 1
    grids = dataset.tiling.plan(sizes, max_num=data.spec.max_dynamic_patch)
    return sum(count_tiles(grid, dataset.tiling.use_thumbnail) for grid in grids) or 1
