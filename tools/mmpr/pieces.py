"""A zip that was cut into pieces, read as one file: no second copy of it is made.

    images.zip                                 whole
    images.zip_a, images.zip_b                 cut by `split`; also _aa, _ab, _ac
    images.zip.001, images.zip.002             cut by others

Checksums are known for pieces that `hf download` fetched: it keeps the hub's beside them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from tools.mmpr.published import PrepareError

PIECE = re.compile(r"(?P<archive>.+)\.zip(?:[._](?P<part>[a-z]{1,3}|\d{1,4}))?")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Pieces(io.RawIOBase):
    """Several files, one behind the other, as one file that can be sought in and read."""

    def __init__(self, paths: Sequence[Path], tail: bytes = b"") -> None:
        """Open the files, in order, with `tail` behind the last one.

        Raises:
            OSError: one cannot be opened.
        """
        self.paths = list(paths)
        self._files = [open(path, "rb", buffering=0) for path in self.paths]  # noqa: SIM115 (see `close`)
        self._ends = list(accumulate(os.fstat(file.fileno()).st_size for file in self._files))
        self._tail = tail
        self._place = 0

    @property
    def size(self) -> int:
        """Bytes of all files, the tail not counted."""
        return self._ends[-1]

    def start(self, number: int) -> int:
        """Where a piece begins in the whole."""
        return self._ends[number - 1] if number else 0

    def piece_at(self, offset: int) -> Path:
        """The piece that holds a byte of the whole; the last one for what lies behind the end."""
        return self.paths[min(bisect_right(self._ends, offset), len(self.paths) - 1)]

    def readable(self) -> bool:
        """As of every file that is read."""
        return True

    def seekable(self) -> bool:
        """As of every file on a disk."""
        return True

    def tell(self) -> int:
        """Where the next read begins, in the whole."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte of the whole; ValueError for one before its start."""
        end = self.size + len(self._tail)
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: end}[whence]
        if place < 0:
            raise ValueError(f"byte {place} lies before the start")
        self._place = place
        return place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, over the borders of pieces; less only at the end: zipfile does not ask twice."""
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (count := self._read_some(view[filled:])):
            filled += count
            self._place += count
        return filled

    def _read_some(self, view: memoryview) -> int:
        """Fill the begin of a buffer from the piece at hand."""
        number = bisect_right(self._ends, self._place)
        if number == len(self._files):
            part = self._tail[self._place - self.size :][: len(view)]
            view[: len(part)] = part
            return len(part)
        wanted = view[: self._ends[number] - self._place]
        return os.preadv(self._files[number].fileno(), [wanted], self._place - self.start(number))

    def close(self) -> None:
        """Close all pieces."""
        for file in self._files:
            file.close()
        super().close()


def find_pieces(folder: Path, archive: str) -> list[Path]:
    """The pieces of an archive in order; the whole zip alone where it is there as well. [] where there is nothing.

    Raises:
        PrepareError: a piece is missing between others or in front, or two ways of cutting are mixed.
    """
    found = {path: PIECE.fullmatch(path.name) for path in folder.iterdir() if path.is_file()}
    parts = {path: match["part"] for path, match in found.items() if match and match["archive"] == archive}
    whole = [path for path, part in parts.items() if part is None]
    if whole or not parts:
        return whole
    if len({(len(part), part.isdigit()) for part in parts.values()}) > 1:
        names = ", ".join(sorted(path.name for path in parts))
        raise PrepareError(f"{folder}: {names} are pieces cut in different ways; keep those of one download")
    ordered = sorted(parts, key=lambda path: _ordinal(parts[path]))
    numbers = [_ordinal(parts[path]) for path in ordered]
    first = min(numbers[0], 1) if parts[ordered[0]].isdigit() else 0  # digits begin at 0 or at 1
    for number, path in enumerate(ordered, first):
        if numbers[number - first] != number:
            name = path.name[: -len(parts[path])] + _part(number, parts[path])
            raise PrepareError(f"{folder / name}: this piece is missing, {path.name} is there; fetch it")
    return ordered


def _ordinal(part: str) -> int:
    """aa -> 0, ab -> 1, 007 -> 7."""
    if part.isdigit():
        return int(part)
    value = 0
    for letter in part:
        value = 26 * value + ord(letter) - ord("a")
    return value


def _part(number: int, like: str) -> str:
    """The inverse of `_ordinal`, as wide as `like`."""
    if like.isdigit():
        return str(number).zfill(len(like))
    letters = ""
    for _ in like:
        number, digit = divmod(number, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def hub_checksum(path: Path) -> str | None:
    """The SHA-256 that the hub gave for a file, from what `hf download --local-dir` keeps; None where it is unknown."""
    notes = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    lines = notes.read_text(encoding="utf-8", errors="replace").splitlines() if notes.is_file() else []
    return lines[1] if len(lines) > 1 and SHA256.fullmatch(lines[1]) else None


def check_sums(paths: Iterable[Path]) -> int:
    """Compare files with the checksums of the hub; returns how many were compared.

    Raises:
        PrepareError: one differs; names it.
    """
    compared = 0
    for path in paths:
        expected = hub_checksum(path)
        if expected is not None:
            compared += 1
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise PrepareError(
                    f"{path}: SHA-256 {found[:12]}.. is not the hub's {expected[:12]}..; {_again([path])}"
                )
    return compared


def checksum_cure(paths: Sequence[Path]) -> str:
    """What to do about pieces that may be damaged."""
    if all(hub_checksum(path) for path in paths):
        return f"--verify tells which piece differs from the hub's; then {_again(paths)}"
    return _again(paths)


def _again(paths: Sequence[Path]) -> str:
    return f"remove {' and '.join(map(str, paths))} and fetch {'it' if len(paths) == 1 else 'them'} again"
