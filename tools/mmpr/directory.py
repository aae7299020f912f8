"""The directory of a zip, read in slices: flat memory for a million members, damage named before a file is written.

zipfile keeps a kilobyte a member. Here the directory, a list of entries at the end of a zip, is cut at entries, and
each slice is given to zipfile as the directory of the same bytes. Layout of the records: PKWARE's APPNOTE.TXT, 4.3.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tools.mmpr.pieces import Pieces, checksum_cure
from tools.mmpr.published import PrepareError

LOCAL_HEADER, ENTRY = b"PK\x03\x04", b"PK\x01\x02"
END = struct.Struct("<4s4H2LH")
END_MARK, MOST_COMMENT = b"PK\x05\x06", 0xFFFF
LOCATOR = struct.Struct("<4sLQL")
LOCATOR_MARK = b"PK\x06\x07"
END64 = struct.Struct("<4sQ2H2L4Q")
END64_MARK = b"PK\x06\x06"
ENTRY_SIZE = 46  # of an entry, its texts not counted
TEXT_SIZES = struct.Struct("<3H")  # of name, extra field and comment, at TEXT_SIZES_AT of an entry
TEXT_SIZES_AT = 28
NEVER = 0xFFFFFFFF  # in an end record: see the 64-bit one
SLICE = 20_000  # members
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Directory:
    """Where the directory of a zip lies in its pieces: first byte, bytes, and how many members it says it lists."""

    paths: tuple[Path, ...]
    start: int
    size: int
    members: int

    def slices(self) -> Iterator[zipfile.ZipFile]:
        """The zip with SLICE of its members after the other; each is open until the next is asked for.

        Raises:
            PrepareError: the directory is damaged.
        """
        for entries, count in _cut(self):
            tail = END64.pack(END64_MARK, END64.size - 12, 45, 45, 0, 0, count, count, len(entries), self._end)
            tail += LOCATOR.pack(LOCATOR_MARK, 0, self._end + len(entries), 1)
            tail += END.pack(END_MARK, 0, 0, MOST_COMMENT, MOST_COMMENT, NEVER, NEVER, 0)
            with Pieces(self.paths, entries + tail) as view:
                try:
                    opened = zipfile.ZipFile(view)
                except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                    raise PrepareError(
                        f"{self.paths[-1]}: its directory is damaged ({error}); fetch it again"
                    ) from error
                with opened:
                    yield opened

    @property
    def _end(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def read_directory(paths: list[Path]) -> Directory:
    """Find the directory of a zip, and look whether its pieces are all there and in order.

    Raises:
        PrepareError: pieces are exchanged, cut short, or the last one is missing; names the piece and the cure.
    """
    _check_heads(paths)
    with closing(Pieces(paths)) as pieces:
        end_at, start, size, members = _find_end(pieces)
        directory = Directory(tuple(paths), end_at - size, size, members)
        if shift := directory.start - start:  # what is missing or too much in front of the directory
            problem = f"{-shift:,} bytes are missing" if shift < 0 else f"there are {shift:,} bytes too many"
            names = ", ".join(path.name for path in paths)
            cure = (
                checksum_cure(paths)
                if len(paths) == 1
                else f"compare their sizes with the hub's; {checksum_cure(paths)}"
            )
            raise PrepareError(f"{paths[0].parent}: {problem} in {names}: one is cut short or doubled; {cure}")
        _check_order(pieces, directory)
    return directory


def _check_heads(paths: list[Path]) -> None:
    """Raise PrepareError where the first piece does not begin a zip."""
    heads = []
    for path in paths:
        with open(path, "rb") as file:
            heads.append(file.read(len(LOCAL_HEADER)))
    if heads[0] not in (LOCAL_HEADER, END_MARK):
        others = [path.name for path, head in zip(paths, heads, strict=True) if head == LOCAL_HEADER]
        hint = f"{others[0]} does: are the names exchanged?" if others else f"remove {paths[0]} and fetch it again"
        raise PrepareError(f"{paths[0]}: does not begin as a zip does; {hint}")


def _find_end(pieces: Pieces) -> tuple[int, int, int, int]:
    """Where the directory ends, where it says that it begins, its size, its members."""
    first = max(0, pieces.size - END.size - MOST_COMMENT)
    end = _read(pieces, first, pieces.size - first)
    at = end.rfind(END_MARK)
    if at < 0 or len(end) - at < END.size:
        last = pieces.paths[-1]
        raise PrepareError(
            f"{last}: no directory of a zip at its end: it is cut short, or a piece behind it is missing; look which "
            f"pieces the repository has, or remove {last} and fetch it again"
        )
    _, _, _, _, members, size, start, _ = END.unpack_from(end, at)
    end_at = first + at
    locator = _read(pieces, end_at - LOCATOR.size, LOCATOR.size) if end_at >= LOCATOR.size else b""
    if locator.startswith(LOCATOR_MARK):
        record_at = end_at - LOCATOR.size - END64.size  # no extensible data: nobody writes any
        record = _read(pieces, record_at, END64.size)
        if record.startswith(END64_MARK):
            *_, members, size, start = END64.unpack(record)
            end_at = record_at
    return end_at, start, size, members


def _check_order(pieces: Pieces, directory: Directory) -> None:
    """Raise PrepareError where a piece does not hold the member that begins first in it."""
    first_in: dict[Path, int] = {}
    for opened in directory.slices():
        for info in opened.infolist():
            path = pieces.piece_at(info.header_offset)
            first_in[path] = min(info.header_offset, first_in.get(path, info.header_offset))
    for number, path in enumerate(pieces.paths):
        offset = first_in.get(path)
        if offset is not None and _read(pieces, offset, len(LOCAL_HEADER)) != LOCAL_HEADER:
            byte = offset - pieces.start(number)
            raise PrepareError(
                f"{path}: is not the piece that belongs there (no member at its byte {byte:,}), "
                f"but another one, or damaged; {checksum_cure([path])}"
            )


def _cut(directory: Directory) -> Iterator[tuple[bytes, int]]:
    """The entries of a directory, up to SLICE at a time, with their number."""
    held, count, begin, read_to = bytearray(), 0, 0, 0
    with closing(Pieces(directory.paths)) as pieces:
        while read_to < directory.size:
            chunk = _read(pieces, directory.start + read_to, min(READ_BYTES, directory.size - read_to))
            held += chunk
            read_to += len(chunk)
            while (end := _entry_end(held, begin)) is not None:
                begin, count = end, count + 1
                if count == SLICE:
                    yield bytes(held[:begin]), count
                    del held[:begin]
                    count = begin = 0
    if begin != len(held):
        raise PrepareError(f"{directory.paths[-1]}: its directory ends within an entry; remove it and fetch it again")
    if count:
        yield bytes(held), count


def _entry_end(held: bytearray, begin: int) -> int | None:
    """Where the entry that begins there ends; None where it is not whole yet, or is none."""
    if len(held) < begin + ENTRY_SIZE or held[begin : begin + len(ENTRY)] != ENTRY:
        return None
    end = begin + ENTRY_SIZE + sum(TEXT_SIZES.unpack_from(held, begin + TEXT_SIZES_AT))
    return end if end <= len(held) else None


def _read(pieces: Pieces, offset: int, size: int) -> bytes:
    """Exactly these bytes; fewer at the end."""
    pieces.seek(offset)
    return pieces.read(size) or b""
