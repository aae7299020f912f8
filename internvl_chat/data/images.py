"""Images to tiles: safe opening, dynamic tiling, uint8 tiles (T, 3, S, S).

An image is stretched to the grid of square tiles whose aspect ratio is nearest to its own, and cut; with more than one
tile the whole image follows as a thumbnail. Tiles stay uint8 until they are on the device (see `normalize_tiles` of the
model): a quarter of the bytes to write, to send from a loader worker and to keep, and the same pixels. Grid and pixels
are those of the original, resized once by Pillow's bicubic filter.

    image = load_image(resolve_image("images/", "a.png"))
    tiling = Tiling(image_size=448, max_num=12)
    tiles = tiling.cut(image, *tiling.plan([image.size]))
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from internvl_chat.model.constants import IMAGENET_MEAN
from internvl_chat.model.file_kinds import wrong_kind
from internvl_chat.records.near_names import near_name
from internvl_chat.records.objects import ObjectError, fetch, is_object, join_object
from internvl_chat.records.rows import shown_path

STRIP_ROWS = 256
WHITES = (2**8 - 1, 2**12 - 1, 2**16 - 1)  # the largest value of 8, 12 and 16 bits
MAX_PIXELS = 100_000_000  # width x height; Pillow takes 400 MB for RGB, twice that while it converts from CMYK
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # none that starts a program (EPS)
AUGMENT_QUALITIES = (75, 100)  # JPEG qualities of data_augment, both included

# What Pillow and its codecs raise on broken files (RuntimeError by AVIF, others found by fuzzing), and what code that
# trusts a header may raise on one that nobody has tried: around calls of a decoder only, where no error is ours.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

Grid = tuple[int, int]  # (columns, rows)


class ImageError(ValueError):
    """An image that cannot be used; the message names its path and the reason, `fault` the kind of fault."""

    def __init__(self, message: str, fault: str = "image_unreadable") -> None:
        super().__init__(message, fault)
        self.fault = fault

    def __str__(self) -> str:
        return self.args[0]


def resolve_image(root: str, path: str, *, allow_file_symlinks: bool = False) -> str:
    """The path of an image of a row, which must lie under `root` ("" is the working directory).

    A root may be in an object store; then it is the path of a local copy, and ImageError where that cannot be had.
    Symlinked folders are followed, clusters use them; a symlink of a single file must lead back under the root or its
    own folder unless `allow_file_symlinks`. Raises ImageError for URLs, paths out of the root, and absent files.
    """
    if "://" in path or path.startswith("data:"):
        reason = "URLs are not read; download the image and give its path under"
        raise ImageError(f"{shown_path(path)}: {reason} {root!r}", "image_url")
    if "\0" in path:
        raise ImageError(f"{shown_path(path)}: a path with a NUL character", "image_missing")
    if is_object(root):
        return _fetch_image(root, path)
    base = os.path.abspath(root)
    full = os.path.abspath(os.path.join(base, path))
    if not _is_under(full, base):
        reason = f"leads out of its root {root!r} to {shown_path(full)}; paths in rows must stay under the root"
        raise ImageError(f"{shown_path(path)}: {reason}", "image_outside_root")
    if os.path.islink(full) and not allow_file_symlinks:
        _check_symlink(full, base)
    if not os.path.isfile(full):
        kind = "not a regular file" if os.path.exists(full) else f"no such file{near_hint(base, path)}"
        raise ImageError(f"{shown_path(full)}: {kind} (image {shown_path(path)} under root {root!r})", "image_missing")
    return full


def _fetch_image(root: str, path: str) -> str:
    try:
        return fetch(join_object(root, path))
    except ValueError as error:
        raise ImageError(f"{shown_path(path)}: {error}", "image_outside_root") from error
    except FileNotFoundError as error:
        raise ImageError(str(error), "image_missing") from error
    except ObjectError as error:
        raise ImageError(str(error), "image_unreachable") from error


def near_hint(base: str, path: str) -> str:
    """ ", but there is .." where a file of nearly this name is below `base`, else ""."""
    near = near_name(base, path)
    return f", but there is {shown_path(near)!r}: write it as the file is called" if near else ""


def _check_symlink(link: str, base: str) -> None:
    """Raise ImageError where a symlink of a file leads out of both `base` and its own folder."""
    target = os.path.realpath(link)
    if not any(_is_under(target, os.path.realpath(home)) for home in (base, os.path.dirname(link))):
        reason = f"a symlink of a single file out of its root {base!r} to {target}; give --follow_symlinks to read it"
        raise ImageError(f"{shown_path(link)}: {reason}", "image_outside_root")


def _is_under(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def open_image(path: str) -> Image.Image:
    """Open an image and read its header only: `.size` is known, pixels are not decoded yet.

    Raises ImageError when the file is absent, empty, of an unknown format, or has more than MAX_PIXELS.
    """
    try:
        image = Image.open(path, formats=FORMATS)
    except DECODE_ERRORS as error:
        size = os.path.getsize(path) if os.path.isfile(path) else None
        kind = wrong_kind(path, "a picture") if size else None
        reason = "the file is empty" if size == 0 else kind or f"{type(error).__name__}: {error}"
        fault = "image_too_large" if isinstance(error, Image.DecompressionBombError) else "image_unreadable"
        raise ImageError(f"{path}: cannot be opened as an image ({reason})", fault) from error
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"{path}: {width} x {height} pixels; from 1 to {MAX_PIXELS} are read", "image_too_large")
    return image


def decode_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to RGB: first frame, alpha dropped, EXIF rotation not applied (as the original).

    Greys of more than 8 bits and of floats are scaled to 8 bits by `grey_levels`, where Pillow's own conversion would
    clip them to white. Raises ImageError when the data are broken or cut short.
    """
    try:
        image.load()
        if image.mode[0] in "IF":
            return Image.fromarray(grey_levels(image)).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except DECODE_ERRORS as error:
        name = getattr(image, "filename", "") or image
        raise ImageError(f"{name}: broken image data ({error})", "image_broken") from error


def grey_levels(image: Image.Image) -> np.ndarray:
    """Greys of 16 or 32 bits, or of floats, scaled to 8 bits, (height, width) uint8; in strips, to save memory.

    What value is white, the files do not say. It is the smallest of `WHITES` that holds all values: 12 bits in 16, as
    cameras and scanners store them, are 12 bits. Negative and larger values, and floats above 1 that are not counted
    in such levels, are stretched from the least to the greatest. NaN counts as the least.
    """
    tops = range(0, image.height, STRIP_ROWS)
    bounds = [_finite_bounds(_strip(image, top)) for top in tops]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    whites = WHITES if image.mode[0] == "I" else (1.0, *WHITES)
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is None:
        black, scale = low, 255 / (high - low) if high > low else 0.0
    else:
        black, scale = 0.0, 255 / white if white == 1 else 256 / (white + 1)
    levels = np.empty((image.height, image.width), np.uint8)
    for top in tops:
        strip = np.nan_to_num(_strip(image, top).astype(np.float32), nan=black, posinf=high, neginf=low)
        levels[top : top + STRIP_ROWS] = np.clip((strip - black) * scale, 0, 255)
    return levels


def _strip(image: Image.Image, top: int) -> np.ndarray:
    """STRIP_ROWS rows of an image, or those that are left."""
    return np.asarray(image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height))))


def _finite_bounds(values: np.ndarray) -> tuple[float, float]:
    """Least and greatest of the finite values; 0 and 0 where there are none."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def load_image(path: str) -> Image.Image:
    """Open and decode an image file to RGB; ImageError as `open_image` and `decode_rgb`."""
    return decode_rgb(open_image(path))


@lru_cache(maxsize=128)
def _candidate_grids(min_num: int, max_num: int) -> tuple[Grid, ...]:
    """Grids of min_num to max_num tiles, fewest tiles first, then fewest columns: the order decides ties."""
    grids = [(cols, rows) for cols in range(1, max_num + 1) for rows in range(1, max_num // cols + 1)]
    grids.sort(key=lambda grid: (grid[0] * grid[1], grid))
    return tuple(grid for grid in grids if grid[0] * grid[1] >= min_num)


def plan_grid(width: int, height: int, *, min_num: int = 1, max_num: int = 12, image_size: int = 448) -> Grid:
    """The (columns, rows) of tiles for an image of width x height pixels.

    The grid of min_num to max_num tiles with the nearest aspect ratio. Of equally near grids the first, or the last
    that the image fills by more than half (its area in pixels over that of the grid). Raises ValueError unless
    1 <= min_num <= max_num.
    """
    if not 1 <= min_num <= max_num:
        raise ValueError(f"tile limits must be 1 <= min_num <= max_num, not {min_num} and {max_num}")
    aspect, area, best, best_gap = width / height, width * height, (1, 1), float("inf")
    for cols, rows in _candidate_grids(min_num, max_num):
        gap = abs(aspect - cols / rows)
        if gap < best_gap or (gap == best_gap and area > 0.5 * image_size * image_size * cols * rows):
            best, best_gap = (cols, rows), gap
    return best


def count_tiles(grid: Grid, use_thumbnail: bool) -> int:
    """Tiles of a grid, with the thumbnail where there is one."""
    cells = grid[0] * grid[1]
    return cells + (use_thumbnail and cells > 1)


def tile_share(max_num: int, num_images: int) -> int:
    """Most tiles of each image of a row whose images share `max_num`: at least one."""
    return max(1, max_num // max(1, num_images))


def dynamic_preprocess(
    image: Image.Image, min_num: int = 1, max_num: int = 12, image_size: int = 448, use_thumbnail: bool = False
) -> list[Image.Image]:
    """Cut an image into min_num to max_num square tiles of image_size pixels, row by row; a thumbnail if several."""
    cols, rows = plan_grid(*image.size, min_num=min_num, max_num=max_num, image_size=image_size)
    stretched = image.resize((cols * image_size, rows * image_size), Image.Resampling.BICUBIC)
    corners = [(col * image_size, row * image_size) for row in range(rows) for col in range(cols)]
    tiles = [stretched.crop((left, top, left + image_size, top + image_size)) for left, top in corners]
    if count_tiles((cols, rows), use_thumbnail) > len(tiles):
        tiles.append(image.resize((image_size, image_size), Image.Resampling.BICUBIC))
    return tiles


@dataclass(frozen=True)
class Tiling:
    """How a row's images become tiles.

    Attributes:
        image_size: side S of a tile in pixels.
        min_num: fewest tiles of an image, thumbnail not counted.
        max_num: most tiles of a row, thumbnails not counted; its images share them.
        dynamic: False gives one tile per image.
        use_thumbnail: add the whole image as last tile where it has several.
        pad2square: without `dynamic`, pad images to squares instead of squeezing them.
        fast: resize by torch on bytes in place of Pillow, see `resize_fast`.
    """

    image_size: int = 448
    min_num: int = 1
    max_num: int = 12
    dynamic: bool = True
    use_thumbnail: bool = True
    pad2square: bool = False
    fast: bool = False

    def plan(
        self, sizes: Sequence[tuple[int, int]], *, max_num: int | None = None, most_tiles: int | None = None
    ) -> list[Grid]:
        """The grid of each image of a row, given their (width, height).

        Every image may have max_num // images tiles, at least one. Where the row's tiles, thumbnails counted, would be
        more than `most_tiles`, that limit is lowered for all its images until they fit. `max_num` replaces the tiling's
        own. Raises ValueError where not even one tile per image fits.
        """
        share = tile_share(max_num or self.max_num, len(sizes)) if self.dynamic else 1
        for limit in range(share, 0, -1):
            low = min(self.min_num, limit)
            grids = [plan_grid(*size, min_num=low, max_num=limit, image_size=self.image_size) for size in sizes]
            if most_tiles is None or sum(count_tiles(grid, self.use_thumbnail) for grid in grids) <= most_tiles:
                return grids
        raise ValueError(f"{len(sizes)} images need at least {len(sizes)} tiles, there is room for {most_tiles}")

    def cut(self, image: Image.Image, grid: Grid) -> np.ndarray:
        """The tiles of an RGB image, those of `dynamic_preprocess`, as one uint8 array (T, 3, S, S)."""
        if self.pad2square and not self.dynamic:
            image = pad_to_square(image)
        resize = resize_fast if self.fast else resize_exact
        (cols, rows), size = grid, self.image_size
        tiles = np.empty((count_tiles(grid, self.use_thumbnail), 3, size, size), np.uint8)
        _write_tiles(resize(image, (cols * size, rows * size)), grid, tiles[: cols * rows])
        if len(tiles) > cols * rows:
            _write_tiles(resize(image, (size, size)), (1, 1), tiles[-1:])
        return tiles


def resize_exact(image: Image.Image, size: tuple[int, int]) -> list[np.ndarray]:
    """The three bands (height, width) of an RGB image at another (width, height), by Pillow's bicubic filter."""
    return [np.asarray(band) for band in image.resize(size, Image.Resampling.BICUBIC).split()]


def resize_fast(image: Image.Image, size: tuple[int, int]) -> list[np.ndarray]:
    """As `resize_exact`, by torch's bicubic filter on bytes: some three times as fast.

    Levels of ordinary pictures differ by 2 of 255 at most, those of white noise by 3.
    """
    import torch  # the tools that look at images alone do without

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # channels last in memory
    resized = torch.nn.functional.interpolate(pixels, size[::-1], mode="bicubic", antialias=True)
    return list(resized[0].numpy())


def _write_tiles(bands: Sequence[np.ndarray], grid: Grid, out: np.ndarray) -> None:
    """Cut the bands of an image of cols x rows tiles into `out` (cols * rows, 3, S, S), without a copy per tile."""
    (cols, rows), size = grid, out.shape[-1]
    view = out.reshape(rows, cols, 3, size, size)
    for channel, band in enumerate(bands):
        view[:, :, channel] = band.reshape(rows, size, cols, size).transpose(0, 2, 1, 3)


def pad_to_square(image: Image.Image) -> Image.Image:
    """Centre an RGB image on a square of its longer side in the mean colour of ImageNet."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in IMAGENET_MEAN))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def degrade_jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An RGB image once through JPEG of a quality drawn from AUGMENT_QUALITIES; same size."""
    low, high = AUGMENT_QUALITIES
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="JPEG", quality=int(rng.integers(low, high + 1)))
    except OSError as error:
        raise ImageError(f"data_augment: an image of {image.size} cannot be written as JPEG ({error})") from error
    return decode_rgb(Image.open(buffer))


def blank_tile(image_size: int = 448) -> np.ndarray:
    """The white tile (1, 3, S, S) uint8 that stands for the image of a text-only row, with image flag 0."""
    return np.full((1, 3, image_size, image_size), 255, np.uint8)
