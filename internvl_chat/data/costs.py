"""What pairs cost a training step, known before the step is planned: their text, and the sizes of their images.

A cost is in tokens of the language model. Image tokens count twice, for on a tile the vision tower works about as much
as the decoder (InternVL2.5-2B: 722 of 773 GFLOP forward). Only headers of images are read.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
from tqdm import tqdm

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import ImageError, count_tiles, open_image, resolve_image
from internvl_chat.data.mixture import BYTES_PER_TOKEN, MixedDataset
from internvl_chat.records.rows import PreferencePair, RecordError, Source, parse_row
from internvl_chat.run.process import gather_objects

WORK_PER_IMAGE_TOKEN = 2
THREADS = 16  # they wait for a file system most of the time
ROWS_AT_ONCE = 256
KEPT_SIZES = 1 << 16  # of images, which often come in several rows


def place_costs(dataset: MixtureDataset, rank: int = 0, world_size: int = 1, *, quiet: bool = False) -> np.ndarray:
    """Cost of the pair at each place of an epoch: (places, 2) float32, of its prompt and of its answers.

    Ranks share the reading and tell each other; a collective. A row that cannot be used costs a blank tile: it is
    skipped when its turn comes, with the reason.

    Args:
        dataset: the mixture.
        rank: of this process.
        world_size: number of processes.
        quiet: show no progress.
    """
    costs = []
    for data in dataset.mixture.datasets:
        own = _costs_of_rows(dataset, data, range(rank, len(data.rows), world_size), quiet=quiet or rank > 0)
        by_row = np.empty((len(data.rows), 2), np.float32)
        for other, part in enumerate(gather_objects(own)):
            by_row[other::world_size] = part
        costs.append(by_row[data.order % len(data.rows)])
    return np.concatenate(costs)


def _costs_of_rows(dataset: MixtureDataset, data: MixedDataset, rows: range, *, quiet: bool) -> np.ndarray:
    """Costs (len(rows), 2) of rows of one data set."""
    tiles_of = lru_cache(KEPT_SIZES)(partial(num_tiles, dataset, data))

    def cost_of_chunk(chunk: range) -> list[tuple[float, float]]:
        return [row_cost(dataset, data, row, tiles_of) for row in chunk]

    chunks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    progress = tqdm(desc=f"sizes of images of {data.spec.name}", total=len(rows), unit="row", disable=quiet)
    with ThreadPoolExecutor(THREADS) as pool, progress:
        costs: list[tuple[float, float]] = []
        for part in pool.map(cost_of_chunk, chunks):
            costs += part
            progress.update(len(part))
    return np.array(costs, np.float32).reshape(-1, 2)


def row_cost(
    dataset: MixtureDataset, data: MixedDataset, row: int, tiles_of: Callable[[tuple[str, ...]], int]
) -> tuple[float, float]:
    """Cost of the prompt and of the answers of a row; text is counted in bytes, at BYTES_PER_TOKEN."""
    line, number = data.rows[row]
    where = Source(data.rows.path, number)
    per_tile = WORK_PER_IMAGE_TOKEN * dataset.rows.image.per_tile
    try:
        pair = PreferencePair.from_row(parse_row(line, *where), where, allow_no_rejected=True)
    except RecordError:
        return per_tile, 0.0
    answers = len(pair.chosen.encode()) + len((pair.rejected or "").encode())
    tiles = tiles_of(pair.image) if pair.video is None else dataset.frames.most
    prompt = per_tile * tiles + len(pair.conversation.encode()) / BYTES_PER_TOKEN
    return prompt, answers / BYTES_PER_TOKEN


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
