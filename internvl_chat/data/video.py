"""Videos to frames: safe opening, frames sampled evenly, each an RGB image that becomes one tile.

Of N frames n are taken, the middle one of each of n parts of like length. That is the original's rule where it does not
draw them; so a video has the same frames in every epoch and for the reference. Pillow reads GIFs, PyAV all else.

    video = open_video(resolve_image("videos/", "a.mp4"), clip=(1.0, 4.5))
    images = list(read_frames(video, 8))
"""

from __future__ import annotations

import logging
import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from internvl_chat.data.images import DECODE_ERRORS, ImageError
from internvl_chat.model.file_kinds import wrong_kind

if TYPE_CHECKING:
    from av.container import InputContainer

logger = logging.getLogger(__name__)

MAX_SECONDS = 4 * 3600
MAX_FRAMES = 1_000_000
MAX_FRAME_PIXELS = 7680 * 4320
# Containers that hold their frames themselves: playlists and the like would open other files, or the network.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
SAFE = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
MICROSECONDS = 1_000_000  # of a second: in them FFmpeg gives the duration of a container
GIF_HEADER, GIF_DELAY = b"GIF8", 100  # first bytes of a file; milliseconds of a frame that does not say its own

LEAST_SHARE = 0.9  # of the seconds that the header says: a video with less is cut short

Clip = tuple[float, float]  # seconds from the start: first, and behind the last


@dataclass(frozen=True)
class FrameLimits:
    """How many frames of a video are taken: at most, and at least, unless it has fewer."""

    fewest: int = 8
    most: int = 32


@dataclass(frozen=True)
class Video:
    """A video whose frames are known but not decoded.

    Attributes:
        path: of the file.
        size: width and height of a frame in pixels.
        frames: those within the clip: their numbers in a GIF, their time stamps in another file, rising.
        keys: time stamps of the frames at which decoding can begin; empty for a GIF.
        shortfall: in words, what is missing of a file that has less than its header says; else "".
    """

    path: str
    size: tuple[int, int]
    frames: tuple[int, ...]
    keys: tuple[int, ...] = ()
    shortfall: str = ""


class Scan(NamedTuple):
    """What packets or frames tell: `size` of a frame, `stamps` of all, rising, the same in `seconds`; as in `Video`."""

    size: tuple[int, int]
    stamps: list[int]
    seconds: list[float]
    keys: tuple[int, ...] = ()
    shortfall: str = ""


def open_video(path: str, clip: Clip | None = None) -> Video:
    """Read a video's headers and the time stamps of its frames.

    Args:
        path: of the file.
        clip: the seconds to take; None for all.

    Raises:
        ImageError: the file cannot be read as a video, is too long or too large, or has no frame within the clip.
    """
    size, stamps, seconds, keys, shortfall = _scan(path)
    if not stamps:
        raise ImageError(f"{path}: a file without a frame of a video", "video_unreadable")
    if seconds[-1] > MAX_SECONDS or not 0 < size[0] * size[1] <= MAX_FRAME_PIXELS:
        facts = f"{size[0]} x {size[1]} pixels, {seconds[-1]:.0f} s"
        most = f"{MAX_FRAME_PIXELS} pixels and {MAX_SECONDS} s"
        raise ImageError(f"{path}: {facts}; videos of up to {most} are read, cut it", "video_too_large")
    start, end = clip or (0.0, math.inf)
    frames = tuple(stamp for stamp, second in zip(stamps, seconds, strict=True) if start <= second < end)
    if not frames:
        raise ImageError(f"{path}: no frame in clip {[start, end]}, it has {seconds[-1]:.1f} s", "video_unreadable")
    if shortfall:
        _warn(f"{path}: {shortfall}")
    return Video(path, size, frames, keys, shortfall)


@lru_cache(maxsize=4096)
def _warn(text: str) -> None:
    """Log a warning, once in a process however many rows and epochs meet the file."""
    logger.warning(text)


def _scan(path: str) -> Scan:
    """Read what a video holds; ImageError where it cannot be read, which says what the file is if that can be told."""
    try:
        with open(path, "rb") as file:
            is_gif = file.read(len(GIF_HEADER)) == GIF_HEADER
        return _scan_gif(path) if is_gif else _scan_container(path)
    except DECODE_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        kind = wrong_kind(path, "a video") if os.path.isfile(path) else None
        reason = kind or str(error) or type(error).__name__
        raise ImageError(f"{path}: cannot be read as a video ({reason})", "video_unreadable") from error


@contextmanager
def _opened(path: str) -> Iterator[InputContainer]:
    """A video open in FFmpeg, whose errors become OSError.

    PyAV gives None for what FFmpeg does not know, which ends as TypeError or AttributeError: both are among those of
    decoders, as is OSError.
    """
    import av  # FFmpeg, 40 MB, which only who reads videos needs

    try:
        with av.open(path, options=SAFE) as container:
            yield container
    except av.FFmpegError as error:
        raise OSError(str(error)) from error


def _scan_container(path: str) -> Scan:
    """Scan the packets, since headers may not tell the truth."""
    with _opened(path) as container:
        if not container.streams.video:
            return Scan((0, 0), [], [])
        stream = container.streams.video[0]
        if stream.codec_context is None:
            unknown = "FFmpeg has no decoder for it, or its index is cut short; convert it to H.264 in MP4"
            raise ImageError(f"{path}: cannot be read as a video ({unknown})", "video_unreadable")
        size = (stream.codec_context.width, stream.codec_context.height)
        found: list[tuple[int, bool]] = []
        end = 0
        for packet in container.demux(stream):
            if packet.pts is None or not packet.size or packet.is_discard:
                continue
            found.append((packet.pts, packet.is_keyframe))
            end = max(end, packet.pts + (packet.duration or 0))
            if len(found) > MAX_FRAMES:
                raise ImageError(f"{path}: more than {MAX_FRAMES} frames; cut it", "video_too_large")
        base = float(stream.time_base or 1)
        promised = stream.duration * base if stream.duration else (container.duration or 0) / MICROSECONDS
        share = min(1.0, len(found) / stream.frames) if stream.frames else 1.0
    stamps = sorted(stamp for stamp, _ in found)
    if not stamps:
        return Scan(size, [], [])
    keys = tuple(sorted(stamp for stamp, is_key in found if is_key))
    seconds = [(stamp - stamps[0]) * base for stamp in stamps]
    lasts = max(seconds[-1], (end - stamps[0]) * base) if len(stamps) > 1 else promised  # one frame may be shown long
    return Scan(size, stamps, seconds, keys, _shortfall(min(lasts, share * promised), promised))


def _shortfall(lasts: float, promised: float) -> str:
    """What is missing of a video whose frames last so many seconds and whose header promises others; "" of a whole."""
    if lasts >= LEAST_SHARE * promised:
        return ""
    return f"has {lasts:.1f} of the {promised:.1f} s that its header says: it is cut short, fetch it again"


def _scan_gif(path: str) -> Scan:
    """As `_scan_container`, with the numbers of frames in place of time stamps."""
    seconds, now = [], 0.0
    with Image.open(path, formats=("GIF",)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            seconds.append(now)
            now += (image.info.get("duration") or GIF_DELAY) / 1000
        return Scan(image.size, list(range(len(seconds))), seconds)


def frame_places(available: int, number: int) -> list[int]:
    """Which of `available` frames are taken: the middles of `number` parts of like length, at most all of them."""
    number = min(number, available)
    bounds = [part * available // number for part in range(number + 1)]
    return [(first + behind - 1) // 2 for first, behind in zip(bounds, bounds[1:], strict=False)]


def read_frames(video: Video, number: int) -> Iterator[Image.Image]:
    """Decode `number` frames to RGB, evenly over the clip, or all where it has fewer.

    Raises:
        ImageError: the file is cut short or broken.
    """
    wanted = [video.frames[place] for place in frame_places(len(video.frames), number)]
    try:
        yield from _decode(video, wanted) if video.keys else _decode_gif(video, wanted)
    except DECODE_ERRORS as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{video.path}: broken video data ({error})", "video_broken") from error


def _decode_gif(video: Video, wanted: list[int]) -> Iterator[Image.Image]:
    with Image.open(video.path, formats=("GIF",)) as image:
        for number in wanted:
            image.seek(number)
            yield image.convert("RGB")


def _decode(video: Video, wanted: list[int]) -> Iterator[Image.Image]:
    """Decode on from the last key frame before each wanted one, or from where decoding is if that is nearer."""
    with _opened(video.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # loader workers share the cores already
        decoded, now = container.decode(stream), -math.inf
        for stamp in wanted:
            key = video.keys[max(0, bisect_right(video.keys, stamp) - 1)]
            if key > now:
                container.seek(key, stream=stream)
                decoded = container.decode(stream)
            frame = next((frame for frame in decoded if frame.pts is not None and frame.pts >= stamp), None)
            if frame is None or frame.pts is None:
                raise ImageError(f"{video.path}: ends before its frame at time stamp {stamp}", "video_broken")
            now = float(frame.pts)
            yield frame.to_image()
