"""Malformed images: cut short, of another type, bombs, animated, of every mode, hidden in other formats."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .case import IMAGE, Case, Outcome, by_entry, put_file

FILE = f"data/images/{IMAGE}"
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP", "ppm": "PPM"}
CUTS = (1, 8, 20, 50, 200)  # bytes that are left; and these shares of the file
SHARES = (0.3, 0.6, 0.9)
READERS: dict[str, Outcome] = {"train": "skipped"}
# A sample of the images also goes through everything else that opens one.
ALL_READERS: dict[str, Outcome] = {
    **READERS,
    "validate": "skipped",
    "sample": "skipped",
    "evaluate": "refused",
    "view": "skipped",
}
BAD = rf"{IMAGE}.*(cannot be opened as an image|broken image data)"
TOO_LARGE = rf"{IMAGE}.*\d+ x \d+ pixels; from 1 to \d+ are read"
BROKEN = f"{BAD}|{TOO_LARGE}"


def picture(mode: str = "RGB", size: tuple[int, int] = (90, 60), seed: int = 0) -> Image.Image:
    """A picture of noise in a mode of Pillow."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@cache
def whole(form: str) -> bytes:
    """A sound file of a format."""
    return encoded(picture(), form)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes = b"", *, colour: int = 2, bits: int = 8) -> bytes:
    """A PNG whose header says anything and whose compressed data are these."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def cases() -> Iterator[Case]:
    """All cases of images."""
    yield from _cut_short()
    yield from _other_files()
    yield from _lying_headers()
    yield from _bombs()
    yield from _altered()
    yield from _odd_but_valid()


def _cut_short() -> Iterator[Case]:
    for form in FORMATS.values():
        data = whole(form)
        for size in (*CUTS, *(int(len(data) * share) for share in SHARES)):
            if size < len(data):
                # a GIF or an uncompressed file without its last bytes still has all its pixels now and then
                yield from by_entry(READERS, "image", f"{form} cut at {size}", put_file(FILE, data[:size]), BAD)


def _other_files() -> Iterator[Case]:
    named = {
        "empty": b"",
        "text": b"This is not a picture.\n",
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/x) (w) file\n",
        "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
        "zip": b"PK\x03\x04" + b"\0" * 60,
        "gzip": b"\x1f\x8b\x08\0" + b"\0" * 60,
        "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 60,
        "pickle": b"\x80\x04\x95" + b"c" * 50,
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 99\n",
        "zeros": b"\0" * 4096,
        "ones": b"\xff" * 4096,
        "noise": np.random.default_rng(1).bytes(4096),
        "psd": b"8BPS\0\1" + b"\0" * 100,
        "ico": b"\0\0\1\0\1\0" + b"\0" * 60,
        "fits": b"SIMPLE  =                    T" + b" " * 2850,
        "mp4": b"\0\0\0\x20ftypisom" + b"\0" * 60,
        "heic": b"\0\0\0\x18ftypheic" + b"\0" * 60,
        "json": b'{"image": "a.png"}',
    }
    for name, data in named.items():
        yield from by_entry(ALL_READERS, "image", f"{name} named .png", put_file(FILE, data), BAD)


def _lying_headers() -> Iterator[Case]:
    rows = zlib.compress(b"\0" * 2000)
    named = {
        "no data": png(30, 20),
        "data of fewer rows": png(300, 200, rows),
        "data that are no zlib": png(30, 20, b"\xde\xad\xbe\xef" * 9),
        "unknown colour type": png(30, 20, rows, colour=9),
        "17 bits": png(30, 20, rows, bits=17),
        "chunk longer than the file": b"\x89PNG\r\n\x1a\n\x7f\xff\xff\xffIHDR" + b"\0" * 20,
        "no IHDR": b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", rows) + chunk(b"IEND", b""),
        "short IHDR": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0"),
    }
    for name, data in named.items():
        yield from by_entry(READERS, "image", f"PNG {name}", put_file(FILE, data), BAD)
    for width, height in ((0, 0), (0, 20), (20, 0)):
        size = f"zero size {width} x {height}"
        yield from by_entry(READERS, "image", f"PNG {size}", put_file(FILE, png(width, height, rows)), BROKEN)
        ppm = f"P6 {width} {height} 255\n".encode()
        yield from by_entry(READERS, "image", f"PPM {size}", put_file(FILE, ppm), BROKEN)
    yield from by_entry(READERS, "image", "BMP of a negative width", put_file(FILE, _bmp(-5, 5)), BROKEN)
    yield from by_entry(READERS, "image", "JPEG of two start marks only", put_file(FILE, b"\xff\xd8\xff\xd8"), BAD)


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 75, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 129, 0, 0, 54) + header + b"\0" * 75


def _bombs() -> Iterator[Case]:
    most = 2**31 - 1
    sizes = ((40_000, 40_000), (most, most), (most, 1), (1, most), (200_000, 1_000), (65_535, 65_535))
    for width, height in sizes:
        name = f"{width} x {height}"
        data = png(width, height, zlib.compress(b"\0" * 100_000))
        yield from by_entry(ALL_READERS, "image", f"PNG bomb {name}", put_file(FILE, data), BROKEN)
        ppm = f"P6 {width} {height} 255\n".encode()
        yield from by_entry(READERS, "image", f"PPM bomb {name}", put_file(FILE, ppm), BROKEN)
        yield from by_entry(READERS, "image", f"BMP bomb {name}", put_file(FILE, _bmp(width, height)), BROKEN)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 200_000_000, 9))
    sound = encoded(picture(), "PNG")
    yield from by_entry(READERS, "image", "PNG text bomb", put_file(FILE, sound[:33] + text + sound[33:]), BAD)
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"a" * 200_000_000, 9))
    yield from by_entry(READERS, "image", "PNG profile bomb", put_file(FILE, sound[:33] + profile + sound[33:]), BAD)


def _altered() -> Iterator[Case]:
    """Sound files in which bytes of the header or of the data are overwritten."""
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        for at in (4, 12, 24):
            data = bytearray(whole(form))
            data[at : at + 8] = b"\xff" * 8
            place = put_file(FILE, bytes(data))
            if _is_sound(bytes(data)):
                yield Case("image", f"{form} overwritten at {at}", "train", place, "used")
            else:
                yield from by_entry(READERS, "image", f"{form} overwritten at {at}", place, BROKEN)


def _is_sound(data: bytes) -> bool:
    """Whether Pillow reads all pixels: some bytes of a header do not matter."""
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, SyntaxError, ValueError, EOFError):
        return False
    return True


def _odd_but_valid() -> Iterator[Case]:
    frames = [picture(seed=seed) for seed in range(5)]
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    palette = picture("P")
    palette.info["transparency"] = 0
    named = {
        "animated GIF": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated WEBP": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated PNG": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "TIFF of pages": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "CMYK JPEG": encoded(picture("CMYK"), "JPEG"),
        "16-bit PNG": encoded(Image.fromarray(np.full((60, 90), 40_000, np.uint16)), "PNG"),
        "16-bit TIFF": encoded(Image.fromarray(np.full((60, 90), 40_000, np.uint16)), "TIFF"),
        "32-bit TIFF": encoded(Image.fromarray(np.full((60, 90), 2**30, np.int32)), "TIFF"),
        "float TIFF": encoded(Image.fromarray(np.full((60, 90), np.nan, np.float32)), "TIFF"),
        "1-bit PNG": encoded(picture("1"), "PNG"),
        "grey with alpha": encoded(picture("LA"), "PNG"),
        "RGBA": encoded(picture("RGBA"), "PNG"),
        "palette with transparency": encoded(palette, "PNG", transparency=0),
        "EXIF-rotated JPEG": encoded(picture(), "JPEG", exif=exif),
        "broken EXIF": encoded(picture(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 60),
        "1 pixel": encoded(picture(size=(1, 1)), "PNG"),
        "1 x 3000": encoded(picture(size=(1, 3000)), "PNG"),
        "3000 x 1": encoded(picture(size=(3000, 1)), "PNG"),
        "JPEG with bytes behind its end": whole("JPEG") + b"<?php system('id'); ?>" * 50,
        "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
        "lossless WEBP": encoded(picture(), "WEBP", lossless=True),
        "LAB TIFF": encoded(picture("LAB"), "TIFF"),
        "8 million pixels": encoded(Image.new("RGB", (4000, 2000)), "PNG"),
    }
    for name, data in named.items():
        yield Case("image", name, "train", put_file(FILE, data), "used")
    limit = {"RGB": "PNG", "RGBA": "PNG", "L": "JPEG", "CMYK": "JPEG", "I": "TIFF", "I;16": "PNG"}
    for mode, form in limit.items():
        yield Case("image", f"{mode} {form} of the most pixels", "train", Largest(mode, form), "used")


class Largest:
    """A sound file of as many pixels as are read, made when it is needed."""

    def __init__(self, mode: str, form: str) -> None:
        self.mode, self.form = mode, form

    def __call__(self, folder: Path) -> None:
        """Write it in place of the victim's image."""
        from internvl_chat.data.images import MAX_PIXELS

        side = int(MAX_PIXELS**0.5)
        (folder / FILE).write_bytes(encoded(Image.new(self.mode, (side, side)), self.form))
