"""Tiles per second of one loader worker: ours beside a plain Pillow + float one, same images, same pixels.

    python benchmarks/bench_tiles.py [--rounds 7] [--images 24]

`plain` is what most code does: crop every tile with Pillow, then torchvision's resize, ToTensor and Normalize per tile,
float32 through the loader. `ours` sends uint8 tiles and normalises where the model runs; `ours_normalised` also does
that in the main process, on the CPU. These go through a DataLoader of one worker; `cpu_*` is the making of tiles alone,
in one process. `fast` is `--fast_resize`: torch resizes bytes, and pixels may differ by a level or two. Writes
benchmarks/results/tiles.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import interleaved_medians, write_results
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from internvl_chat.data.images import Tiling, dynamic_preprocess, load_image
from internvl_chat.model.constants import IMAGENET_MEAN, IMAGENET_STD
from internvl_chat.model.modeling_internvl import normalize_tiles

# Photos, screenshots, charts and documents as in MMPR: (width, height, file type).
KINDS = (
    (640, 480, "jpg"),
    (1024, 768, "jpg"),
    (500, 375, "jpg"),
    (800, 600, "png"),
    (1600, 1200, "jpg"),
    (480, 640, "jpg"),
    (850, 600, "png"),
    (1240, 1754, "jpg"),
)
SIDE = 448
TILING = Tiling(image_size=SIDE, max_num=12)
FAST = replace(TILING, fast=True)
PLAIN_TRANSFORM = transforms.Compose(
    [
        transforms.Lambda(lambda image: image.convert("RGB")),
        transforms.Resize((SIDE, SIDE), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)


def draw_images(folder: Path, count: int) -> list[str]:
    """Write `count` pictures of smooth colour with some noise, sizes as KINDS, and return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        width, height, suffix = KINDS[number % len(KINDS)]
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
        noisy = np.asarray(coarse, np.int16) + rng.normal(0, 4, (height, width, 1)).astype(np.int16)
        paths.append(str(folder / f"{number}.{suffix}"))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def plain_tiles(path: str) -> torch.Tensor:
    """The plain way: (T, 3, S, S) float32, normalised."""
    image = Image.open(path).convert("RGB")
    tiles = dynamic_preprocess(image, max_num=12, image_size=SIDE, use_thumbnail=True)
    return torch.stack([PLAIN_TRANSFORM(tile) for tile in tiles])


def our_tiles(path: str, tiling: Tiling = TILING) -> torch.Tensor:
    """Our way: (T, 3, S, S) uint8."""
    image = load_image(path)
    return torch.from_numpy(tiling.cut(image, *tiling.plan([image.size])))


def levels_apart(paths: list[str]) -> int:
    """The most that a level of a fast tile is off."""
    apart = (our_tiles(path).short() - our_tiles(path, FAST).short() for path in paths)
    return max(int(levels.abs().max()) for levels in apart)


class Tiles(Dataset):
    """The tiles of each path, made by `make`."""

    def __init__(self, paths: list[str], make: Callable[[str], torch.Tensor]) -> None:
        self.paths, self.make = paths, make

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Tiles of one image."""
        return self.make(self.paths[index])


def start_thread(_: int) -> None:
    """One thread in the worker, as a loader worker has."""
    torch.set_num_threads(1)


class Worker:
    """A DataLoader of one lasting worker: calling it runs one epoch, batches of 4 images joined as in training."""

    def __init__(self, paths: list[str], make: Callable[[str], torch.Tensor], normalise: bool = False) -> None:
        self.normalise = normalise
        self.loader = DataLoader(
            Tiles(paths, make),
            batch_size=4,
            num_workers=1,
            collate_fn=torch.cat,
            persistent_workers=True,
            worker_init_fn=start_thread,
        )

    def __call__(self) -> None:
        """Run one epoch."""
        for tiles in self.loader:
            if self.normalise:
                normalize_tiles(tiles)


def main() -> None:
    """Check that the pixels are the same, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = draw_images(Path(folder), args.images)
        identical = all(torch.equal(normalize_tiles(our_tiles(path)), plain_tiles(path)) for path in paths)
        tiles = sum(len(our_tiles(path)) for path in paths)
        seconds = interleaved_medians(
            {
                "plain": Worker(paths, plain_tiles),
                "ours": Worker(paths, our_tiles),
                "fast": Worker(paths, partial(our_tiles, tiling=FAST)),
                "ours_normalised": Worker(paths, our_tiles, normalise=True),
                "cpu_plain": lambda: [plain_tiles(path) for path in paths],
                "cpu_ours": lambda: [our_tiles(path) for path in paths],
                "cpu_fast": lambda: [our_tiles(path, FAST) for path in paths],
            },
            args.rounds,
        )
        apart = levels_apart(paths)
    write_results(
        "tiles",
        {
            "images": args.images,
            "tiles": tiles,
            "pixels_identical": identical,
            "levels_that_fast_pixels_differ_at_most": apart,
            "tiles_per_second": {name: round(tiles / value, 1) for name, value in seconds.items()},
            "speedup": round(seconds["plain"] / seconds["ours"], 2),
            "speedup_normalised": round(seconds["plain"] / seconds["ours_normalised"], 2),
            "speedup_cpu": round(seconds["cpu_plain"] / seconds["cpu_ours"], 2),
            "speedup_fast_over_ours": round(seconds["ours"] / seconds["fast"], 2),
            "speedup_fast_over_ours_cpu": round(seconds["cpu_ours"] / seconds["cpu_fast"], 2),
        },
    )


if __name__ == "__main__":
    main()
