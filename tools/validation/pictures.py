"""What is wrong or odd about an image file; each file is read once however many rows use it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import xxhash
from PIL import Image

from internvl_chat.data.images import DECODE_ERRORS, decode_rgb, open_image, resolve_image
from internvl_chat.data.video import Clip, open_video, read_frames

REMEMBERED = 65_536  # image files
SMALLEST_SIDE = 10  # pixels
VISIBLE_LEVELS = 16  # of 256, between the darkest and the brightest pixel: 12 bits in 16 of a colour picture span 15
_EXIF_ORIENTATION = 0x0112
_ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")


@dataclass(frozen=True)
class CheckedPicture:
    """An image file that training can use.

    Attributes:
        size: width and height in pixels.
        identity: the same for files of the same content where they were decoded, else for the same path.
        oddities: (name of the fault, detail) of what is suspicious about it.
    """

    size: tuple[int, int]
    identity: str
    oddities: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Film:
    """A video file that training can use: size of a frame in pixels, number of frames, all else as of a picture."""

    size: tuple[int, int]
    identity: str
    num_frames: int
    oddities: tuple[tuple[str, str], ...]


def flat_colour(image: Image.Image) -> str | None:
    """What an RGB image shows that shows nothing: its one colour, in words; None where there is more to be seen."""
    ranges: Any = image.getextrema()  # of each band
    if max(high - low for low, high in ranges) >= VISIBLE_LEVELS:
        return None
    least, most = (tuple(bound[side] for bound in ranges) for side in (0, 1))
    return f"it decodes to {least}" + (f" .. {most} of 255" if most != least else "")


class PictureReader:
    """Reads image files as training does, remembering the last REMEMBERED."""

    def __init__(self, *, decode: bool, follow_symlinks: bool = False) -> None:
        """Decode images whole, or read their headers only; `follow_symlinks` as of `resolve_image`."""
        self.decode = decode
        self._resolve = partial(resolve_image, allow_file_symlinks=follow_symlinks)
        self._read_once = lru_cache(REMEMBERED)(self._read)
        self._read_video_once = lru_cache(REMEMBERED)(self._read_video)

    def read(self, root: str, path: str) -> CheckedPicture:
        """The image `path` of a row under `root`; ImageError where training cannot use it."""
        return self._read_once(self._resolve(root, path))

    def read_video(self, root: str, path: str, clip: Clip | None, num_frames: int) -> Film:
        """The video `path` of a row, so many frames of it looked at; ImageError where training cannot use it."""
        return self._read_video_once(self._resolve(root, path), clip, num_frames)

    def _read_video(self, path: str, clip: Clip | None, num_frames: int) -> Film:
        video = open_video(path, clip)
        identity = path
        if self.decode:
            digest = xxhash.xxh3_128()
            for frame in read_frames(video, num_frames):
                digest.update(frame.tobytes())
            identity = digest.hexdigest()
        oddities = (("video_short", f"{path}: {video.shortfall}"),) if video.shortfall else ()
        return Film(video.size, f"{identity} {clip}", len(video.frames), oddities)

    def _read(self, path: str) -> CheckedPicture:
        with open_image(path) as image:
            flat = None
            if self.decode:
                flat = flat_colour(decode_rgb(image))
                with open(path, "rb") as file:
                    identity = xxhash.xxh3_128_hexdigest(file.read())
            else:
                identity = path
            found = [*self._oddities(image), *([("image_flat", flat)] if flat else [])]
            oddities = tuple((fault, f"{path}: {detail}") for fault, detail in found)
            return CheckedPicture(image.size, identity, oddities)

    def _oddities(self, image: Image.Image) -> Iterator[tuple[str, str]]:
        if min(image.size) < SMALLEST_SIDE:
            yield "image_tiny", "{} x {} pixels".format(*image.size)
        try:
            yield from _shown_otherwise(image)
        except DECODE_ERRORS as error:
            yield "image_rotated", f"its EXIF data or frames cannot be read ({error})"
            return
        if self.decode and _has_holes(image):
            yield "image_transparent", f"{image.mode} with pixels of alpha 0"


def _shown_otherwise(image: Image.Image) -> Iterator[tuple[str, str]]:
    """What viewers show of a file and training does not: its rotation, its frames."""
    animated = image.format in _ANIMATED_FORMATS and getattr(image, "is_animated", False)
    if (orientation := image.getexif().get(_EXIF_ORIENTATION, 1)) not in (0, 1):
        yield "image_rotated", f"EXIF orientation {orientation}"
    if animated:
        yield "image_animated", f"{image.format} of several frames"


def _has_holes(image: Image.Image) -> bool:
    """Whether some pixels are wholly transparent."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] == 0
