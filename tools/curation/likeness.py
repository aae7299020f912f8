"""Are two pictures the same one? Perceptual hashes propose, pixels decide.

A picture has one hash for each of VIEWS, itself and what is left when up to 5 % of a side is cut off (imagehash.phash,
64 bits). Two are candidates where the hash of one whole picture is near that of a view of the other: re-encoding and
scaling move few bits, cropping is met by the views. Candidates are then laid over each other as thumbnails, at the best
of finer crops, and are the same picture where these correlate and no part of them differs: two diagrams of thin lines
on white have near hashes, but their lines do not lie on each other; two charts correlate, but for one bar. Where many
charts look alike most candidates are such: the patches of each view, kept for each picture, turn 98 % of these down
before anything is laid over anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import imagehash
import numpy as np
import xxhash
from PIL import Image

from internvl_chat.data.images import decode_rgb, open_image

Cuts = tuple[float, float, float, float]  # left, top, right, bottom, of a side
CUTS = (0.0, 0.05)
VIEWS: tuple[Cuts, ...] = tuple(itertools.product(CUTS, CUTS, CUTS, CUTS))  # the first is the whole picture
WORKING_SIDE = 128  # pixels of the square that hashes are taken of
THUMBNAIL = 48  # pixels of the squares that are laid over each other
FINE_STEPS = (0.025, 0.0125, 0.00625)
MOST_CUT = 0.06  # of a side, when crops are made finer
NEAR_BITS = 14  # of 64 by which candidates differ at most
SAME_CORRELATION = 0.86
PATCH = 6  # pixels of a thumbnail: parts of this size must agree by themselves
MOST_PATCH = 0.6  # difference of a patch's mean, in deviations of the picture; one bar of a chart moved makes 1.3
MOST_ROUGH_PATCH = 1.0  # the same at the nearest view, not yet the best crop: of 1,792 planted copies at most 0.88
KEPT = 1 << 15  # pictures whose patches are kept, 2 kB each
FLAT = 2.0  # standard deviation of grey levels below which a picture shows nothing that could be compared
BLOCK = 1 << 22  # pairs compared at once


def exact_hash(path: str) -> int:
    """A 64-bit hash of a file's bytes."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.intdigest()


def view_hashes(path: str) -> np.ndarray:
    """Perceptual hashes of the views of a picture, (V,) uint64; ImageError where it cannot be read."""
    square = _square(path, WORKING_SIDE)
    return np.array([_bits(_cut(square, cuts)) for cuts in VIEWS], np.uint64)


def _square(path: str, side: int) -> Image.Image:
    """A picture in grey, squeezed to a square; JPEG files are decoded at a fitting size."""
    with open_image(path) as image:
        image.draft("L", (2 * side, 2 * side))
        return decode_rgb(image).convert("L").resize((side, side), Image.Resampling.BOX)


def _cut(square: Image.Image, cuts: Cuts) -> Image.Image:
    left, top, right, bottom = (cut * square.width for cut in cuts)
    box = (left, top, square.width - right, square.height - bottom)
    return square.resize(square.size, Image.Resampling.BILINEAR, box) if any(cuts) else square


def _bits(image: Image.Image) -> int:
    return int(str(imagehash.phash(image)), 16)


def candidates(ones: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    """(row of `ones`, row of `others`) of pictures with near hashes; both are (pictures, V) uint64.

    Compared are whole pictures of one side with views of the other: 2 V n m XORs, some 10^9 a second.
    """
    if not len(ones) or not len(others):
        return
    step = max(1, BLOCK // (len(VIEWS) * len(others)))
    for first in range(0, len(ones), step):
        part = ones[first : first + step]
        near = _near(part[:, :1], others) | _near(others[:, :1], part).T
        for one, other in np.argwhere(near):
            yield first + int(one), int(other)


def _near(wholes: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Which of n whole pictures, (n, 1), are near a view of m others, (m, V): (n, m) bool."""
    near = np.zeros((len(wholes), len(views)), bool)
    for view in views.T:
        near |= np.bitwise_count(wholes ^ view) <= NEAR_BITS
    return near


def same_picture(one: str, other: str) -> bool:
    """Whether two files show one picture, up to encoding, size, and a crop of at most 5 % a side of one of them."""
    return _overlays(one, other) or _overlays(other, one)


def _overlays(whole: str, cropped: str) -> bool:
    """Whether one picture is what is left of the other when its sides are cut."""
    differences = np.abs(_view_patches(whole) - _view_patches(cropped)[0]).max(axis=1)
    if differences.min() > MOST_ROUGH_PATCH:
        return False
    target = _thumbnail(_working(cropped))
    if target is None:
        return False
    square = _working(whole)
    cuts, correlation = _best_cuts(square, target)
    return correlation >= SAME_CORRELATION and _worst_patch(square, cuts, target) <= MOST_PATCH


def _best_cuts(square: Image.Image, target: np.ndarray) -> tuple[Cuts, float]:
    """The cuts at which a picture is most like the target, found uphill from the best view, and its correlation."""
    best_cuts = max(VIEWS, key=lambda cuts: _overlay(square, cuts, target))
    best = _overlay(square, best_cuts, target)
    for step in FINE_STEPS:
        improved = True
        while improved:
            improved = False
            for cuts in _neighbours(best_cuts, step):
                found = _overlay(square, cuts, target)
                if found > best + 1e-4:
                    best, best_cuts, improved = found, cuts, True
    return best_cuts, best


def _worst_patch(square: Image.Image, cuts: Cuts, target: np.ndarray) -> float:
    """The largest difference of the mean of a patch, in deviations of the picture."""
    cut = _thumbnail(square, cuts)
    assert cut is not None  # it correlates
    return float(np.abs(_patches(cut - target)).max())


def _neighbours(cuts: Cuts, step: float) -> Iterator[Cuts]:
    for side in range(len(cuts)):
        for moved in (cuts[side] - step, cuts[side] + step):
            if 0 <= moved <= MOST_CUT:
                changed = list(cuts)
                changed[side] = moved
                yield changed[0], changed[1], changed[2], changed[3]


def _overlay(square: Image.Image, cuts: Cuts, target: np.ndarray) -> float:
    """Correlation, -1 to 1, of a thumbnail of the cut square with another one."""
    cut = _thumbnail(square, cuts)
    return 0.0 if cut is None else float(np.mean(cut * target))


def _thumbnail(square: Image.Image, cuts: Cuts = VIEWS[0]) -> np.ndarray | None:
    """What is left of a square, (THUMBNAIL, THUMBNAIL) grey levels with mean 0 and deviation 1.

    None of a flat picture, which is like every other flat one.
    """
    small = _cut(square, cuts).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    deviation = float(values.std())
    return None if deviation < FLAT else (values - values.mean()) / deviation


def _patches(thumbnail: np.ndarray) -> np.ndarray:
    """Means of its PATCH x PATCH parts, one after the other."""
    side = THUMBNAIL // PATCH
    return thumbnail.reshape(side, PATCH, side, PATCH).mean(axis=(1, 3)).ravel()


@lru_cache(maxsize=KEPT)
def _view_patches(path: str) -> np.ndarray:
    """The patches of each view of a picture, (V, 64) float16; NaN of a flat one, which is left to a closer look."""
    square = _working(path)
    nothing = np.full((THUMBNAIL, THUMBNAIL), np.nan, np.float32)
    thumbnails = (_thumbnail(square, cuts) for cuts in VIEWS)
    return np.array([_patches(nothing if view is None else view) for view in thumbnails], np.float16)


@lru_cache(maxsize=512)
def _working(path: str) -> Image.Image:
    return _square(path, WORKING_SIDE)
