"""What a file is by its first bytes, for messages: a Git LFS pointer, an archive, a web page, a format not read here.

Downloads and copies leave files whose name promises something else. Every reader asks here, so that the cure is the
right one: fetching a pointer again gives the pointer again. It stands here since `model/` imports nothing of ours.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

HEAD = 4096  # bytes that are looked at
_SHOWN = 60  # characters of a text, in a message
_FETCH = "run 'git lfs pull' in its repository, or fetch the file with 'hf download'"
_UNPACK = "unpack it first"
_AGAIN = "fetch the file itself again; this may be the page of an error or a login"
# What to do with a file of another format, by what is wanted.
_CURES = {
    "rows": "name a JSONL file, one JSON object a line",
    "JSON": "name or fetch the JSON file",
    "text": "fetch the file again",
    "safetensors weights": "fetch the .safetensors files, or convert the weights where you trust them",
    "a picture": "convert it to PNG or JPEG",
    "a video": "convert it to MP4",
}


class FileKind(NamedTuple):
    """A kind of file: `what` it is, in words, the `cure` if it has one of its own, what it is `good_for`."""

    what: str
    cure: str = ""
    good_for: str = ""


_ZEROS = FileKind("a file of zero bytes only", "a copy or download was cut off: fetch it again")
_ARRAY = FileKind("a JSON array over all rows", "write its entries one a line: jq -c '.[]' FILE > FILE.jsonl")
_INDENTED = FileKind("JSON over several lines", "write each object on one line: jq -c . FILE > FILE.jsonl")
_STARTS = (
    (b"version https://git-lfs.github.com/spec/", FileKind("a Git LFS pointer", _FETCH)),
    (b"version https://hawser.github.com/spec/", FileKind("a Git LFS pointer", _FETCH)),
    (b"/annex/objects/", FileKind("a git-annex pointer", "run 'git annex get' in its repository")),
    (b"../.git/annex/", FileKind("a git-annex pointer", "run 'git annex get' in its repository")),
    (b"\x1f\x8b", FileKind("a gzip archive", f"{_UNPACK}: gunzip, or tar -xzf")),
    (b"BZh", FileKind("a bzip2 archive", f"{_UNPACK}: bunzip2")),
    (b"\xfd7zXZ\0", FileKind("an xz archive", f"{_UNPACK}: unxz")),
    (b"\x28\xb5\x2f\xfd", FileKind("a zstd archive", f"{_UNPACK}: unzstd")),
    (b"\x04\x22\x4d\x18", FileKind("an lz4 archive", f"{_UNPACK}: lz4 -d")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", _UNPACK)),
    (b"Rar!", FileKind("a rar archive", _UNPACK)),
    (b"PK\x03\x04", FileKind("a zip archive (or .npz, .xlsx, or what torch.save writes)", _UNPACK)),
    (b"PK\x05\x06", FileKind("an empty zip archive", "fetch it again")),
    (
        b"PAR1",
        FileKind("a parquet file", "python tools/import_pairs.py --parquet FILE --out DIR makes rows", "parquet"),
    ),
    (b"ARROW1", FileKind("an Arrow file")),
    (b"\x89HDF\r\n", FileKind("an HDF5 file")),
    (b"SQLite format 3\0", FileKind("an SQLite database")),
    (b"\x93NUMPY", FileKind("a NumPy array")),
    (b"GGUF", FileKind("GGUF weights", "fetch the checkpoint of safetensors files")),
    (b"%PDF", FileKind("a PDF")),
    (b"%!PS", FileKind("PostScript")),
    (b"\xc5\xd0\xd3\xc6", FileKind("PostScript")),
    (b"{\\rtf", FileKind("a rich-text document")),
    (b"\xd0\xcf\x11\xe0", FileKind("an older Office document")),
    (b"\xff\xfe\0\0", FileKind("text in UTF-32", "save it as UTF-8")),
    (b"\0\0\xfe\xff", FileKind("text in UTF-32", "save it as UTF-8")),
    (b"\xff\xfe", FileKind("text in UTF-16", "save it as UTF-8")),
    (b"\xfe\xff", FileKind("text in UTF-16", "save it as UTF-8")),
    (b"\0\0\1\0", FileKind("an ICO icon")),
    (b"\0\0\2\0", FileKind("a cursor (CUR)")),
    (b"8BPS", FileKind("a Photoshop document (PSD)")),
    (b"gimp xcf", FileKind("a GIMP picture (XCF)")),
    (b"\xff\x0a", FileKind("a JPEG XL picture")),
    (b"\0\0\0\x0cJXL ", FileKind("a JPEG XL picture")),
    (b"\x76\x2f\x31\x01", FileKind("an OpenEXR picture")),
    (b"DDS ", FileKind("a DDS texture")),
    (b"SIMPLE  =", FileKind("a FITS picture")),
    (b"\x89PNG\r\n", FileKind("a PNG picture", good_for="a picture")),
    (b"\xff\xd8\xff", FileKind("a JPEG picture", good_for="a picture")),
    (b"GIF8", FileKind("a GIF", good_for="a picture")),
    (b"BM", FileKind("a BMP picture", good_for="a picture")),
    (b"II*\0", FileKind("a TIFF or camera-raw picture", good_for="a picture")),
    (b"MM\0*", FileKind("a TIFF picture", good_for="a picture")),
    (b"\x1a\x45\xdf\xa3", FileKind("a Matroska or WebM video", good_for="a video")),
    (b"FLV\1", FileKind("an FLV video", good_for="a video")),
    (b"ID3", FileKind("an MP3 sound")),
    (b"fLaC", FileKind("a FLAC sound")),
    (b"\x7fELF", FileKind("a program")),
)
_RIFF = {
    b"WEBP": FileKind("a WebP picture", good_for="a picture"),
    b"AVI ": FileKind("an AVI video", good_for="a video"),
    b"WAVE": FileKind("a WAVE sound"),
}
_MARKUP = (
    ((b"<!doctype html", b"<html", b"<head", b"<body"), FileKind("a web page (HTML)", _AGAIN)),
    ((b"<svg",), FileKind("an SVG drawing")),
    ((b"<?xml", b"<error", b"<!doctype"), FileKind("XML", _AGAIN)),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PICKLE = FileKind("a pickle", "it can run code when read: convert it to safetensors where you trust it")


def wrong_kind(path: str | os.PathLike, wanted: str) -> str | None:
    """What a file is that is not what is `wanted`, with the cure; None where that cannot be told, or it is.

    Args:
        path: a file that can be read.
        wanted: a key of `_CURES`, or other words; files that are good for it pass.
    """
    with open(path, "rb") as file:
        kind = kind_of(file.read(HEAD), wanted)
    if kind is None or kind.good_for == wanted:
        return None
    cure = kind.cure or _CURES.get(wanted, "fetch the file again")
    if {kind.good_for, wanted} == {"a picture", "a video"}:
        cure = f"name it under {kind.good_for.removeprefix('a ').replace('picture', 'image')!r}"
    return f"this is {kind.what}, not {wanted}; {cure}"


def kind_of(head: bytes, wanted: str = "") -> FileKind | None:
    """The kind of a file that begins with `head`; None of what is not known. `wanted` rows tell JSON of other forms."""
    if not head:
        return None
    if not head.strip(b"\0"):
        return _ZEROS
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    return _of_container(head) or _of_text(head, wanted)


def _of_container(head: bytes) -> FileKind | None:
    """Formats whose mark does not stand at the very start, or is more than some bytes."""
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIC:
            return FileKind("a HEIC picture")
        if head[8:12] in (b"avif", b"avis"):
            return FileKind("an AVIF picture", good_for="a picture")
        return FileKind("an MP4 or MOV video", good_for="a video")
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", f"{_UNPACK}: tar -xf")
    if head[128:132] == b"DICM":
        return FileKind("a DICOM picture")
    if len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] < 1 << 32:
        return FileKind("a safetensors file", good_for="safetensors weights")
    return _PICKLE if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5") else None


def _of_text(head: bytes, wanted: str) -> FileKind | None:
    """Web pages, drawings, JSON of another form than rows; other text where it is no text that is wanted."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = text.lower()
    for starts, kind in _MARKUP:
        if lowered.startswith(starts):
            return _MARKUP[1][1] if b"<svg" in lowered else kind
    if wanted == "rows":
        return _json_over_lines(text)
    if wanted in ("JSON", "text"):
        return None
    begins = text[:_SHOWN].decode("utf-8", "ignore").strip()
    is_text = bool(begins) and all(one.isprintable() or one.isspace() for one in begins)
    return FileKind(f"text that begins with {begins!r}", "fetch the file again") if is_text else None


def _json_over_lines(text: bytes) -> FileKind | None:
    """JSON that is no JSONL: one array, or objects over several lines. A list on a line among others is a bad row."""
    first, _, rest = text.partition(b"\n")
    first = first.rstrip()
    if first == b"{":
        return _INDENTED
    is_one_row = first.endswith(b"]") and rest.strip()
    return _ARRAY if first.startswith(b"[") and not is_one_row else None
