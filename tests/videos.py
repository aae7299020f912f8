"""Videos that tests make: every frame has a colour of its own, so that its number can be read off."""

import av
import numpy as np
from PIL import Image

SIDE = 64
STEP = 8  # of a frame's brightness to the next one's


def picture(number):
    """Frame `number` of any of these videos."""
    pixels = np.full((SIDE, SIDE, 3), (number * STEP) % 256, np.uint8)
    pixels[: SIDE // 2] //= 2  # not one flat colour
    return Image.fromarray(pixels)


def number_of(image):
    """Which frame an image is, codecs being inexact."""
    return round(float(np.asarray(image)[SIDE // 2 + 4 :].mean()) / STEP)


def write_mp4(path, frames, *, rate=8, gop=6, b_frames=2, options=None):
    """Write H.264 with key frames `gop` apart and frames out of order in between, in what the suffix says."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"bf": str(b_frames), "crf": "4", "sc_threshold": "0"}
        )
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(number))))
        container.mux(stream.encode())
    return path


def write_gif(path, frames, *, milliseconds=120):
    first, *others = map(picture, range(frames))
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
    return path
