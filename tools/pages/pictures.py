"""Pictures of rows, embedded in a page: scaled down, of videos a few frames."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from internvl_chat.data.images import ImageError, load_image, resolve_image
from internvl_chat.records.rows import VideoClip
from tools.pages.page import data_uri

FRAMES = 4  # shown of a video


@dataclass(frozen=True)
class Picture:
    """An embedded image: a data URI, or the problem that kept it from being opened."""

    path: str
    uri: str | None = None
    problem: str | None = None


def embed(root: str, path: str, max_side: int, *, follow_symlinks: bool = False) -> Picture:
    """The image as training sees it (alpha dropped), at most `max_side` pixels a side, as JPEG."""
    try:
        image = load_image(resolve_image(root, path, allow_file_symlinks=follow_symlinks))
    except ImageError as error:
        return Picture(path, problem=str(error))
    return Picture(path, uri=picture_uri(image, max_side))


def embed_frames(root: str, video: VideoClip, max_side: int, *, follow_symlinks: bool = False) -> list[Picture]:
    """FRAMES frames of a video, spread as training spreads them."""
    from internvl_chat.data.video import open_video, read_frames  # FFmpeg, which few pages need

    try:
        path = resolve_image(root, video.path, allow_file_symlinks=follow_symlinks)
        frames = read_frames(open_video(path, video.clip), FRAMES)
        return [Picture(video.path, uri=picture_uri(frame, max_side)) for frame in frames]
    except ImageError as error:
        return [Picture(video.path, problem=str(error))]


def picture_uri(image: Image.Image, max_side: int) -> str:
    """An RGB image, scaled down in place, as JPEG in a URI."""
    image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return data_uri(buffer.getvalue(), "jpeg")
