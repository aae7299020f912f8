"""Unpack a zip so that a kill at any moment costs nothing: the same command ends in the same files.

A member is written beside its place, checked against its CRC-32, and given its name whole. Every so often all that is
written is forced to the disk, and a journal notes how far that is: members before it are trusted if they have their
size, later ones only if their bytes have the right checksum. So a lost power supply cannot leave an empty picture.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from internvl_chat.records.durable import json_line, open_for_append, whole_lines
from tools.mmpr.directory import read_directory
from tools.mmpr.members import Member, MemberPlan, plan_members
from tools.mmpr.pieces import Pieces, checksum_cure
from tools.mmpr.published import PrepareError

WORK = ".unpacking"  # below the output folder
BATCH = 256  # members given to the threads at once
SYNC_EVERY = 20_000  # members
COPY_BYTES = 1 << 20
SPARE_BYTES = 1 << 28  # that a disk needs beside the files
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Unpacked:
    """What came of an archive: its members, how many were written now (the others were there), and their bytes."""

    members: int
    written: int
    total_bytes: int
    repeated: int
    system_files: int


@dataclass(frozen=True)
class Unpacker:
    """Unpacks archives below `out`.

    Attributes:
        out: folder of the set.
        threads: that write, useful on file systems over a network.
        encoding: of names that do not say that they are UTF-8.
        told: called with the number of members that are done, as they get done.
    """

    out: Path
    threads: int = 4
    encoding: str = "utf-8"
    told: Callable[[int], object] = lambda count: None

    def unpack(self, archive: str, paths: list[Path]) -> Unpacked:
        """Unpack the archive that lies in these pieces.

        Raises:
            PrepareError: the pieces, a member, or the room on the disk; says what to do.
            BlockingIOError: another process unpacks the same archive.
        """
        plan = plan_members(read_directory(paths), archive, self.encoding)
        scratch = self.out / WORK / f"{archive}.parts"
        with _Journal(self.out / WORK / f"{archive}.journal", plan.fingerprint) as journal:
            shutil.rmtree(scratch, ignore_errors=True)  # what a kill left
            self._check_room(plan)
            scratch.mkdir(parents=True)
            written = self._write_all(plan, scratch, journal)
            scratch.rmdir()
        return Unpacked(plan.members, written, plan.total_bytes, len(plan.repeated), len(plan.system_files))

    def _check_room(self, plan: MemberPlan) -> None:
        """Raise PrepareError where what is left to write does not fit the disk."""
        members = (member for _, members in plan.slices() for member in members)
        left = sum(member.info.file_size for member in members if not _has_size(self.out / member.path, member))
        free = shutil.disk_usage(self.out).free
        if left and left + SPARE_BYTES > free:
            raise PrepareError(
                f"{self.out}: {plan.archive}.zip needs {left / 1e9:.1f} GB more, the disk has {free / 1e9:.1f} GB: "
                "make room or take another --out, then start the same command again"
            )

    def _write_all(self, plan: MemberPlan, scratch: Path, journal: _Journal) -> int:
        """Bring all members to their places; how many were written."""
        written, done, trusted = 0, 0, journal.done
        with ThreadPoolExecutor(self.threads) as pool:
            for opened, members in plan.slices():
                place = _Placing(self.out, scratch, opened, plan.directory.paths, trusted)
                for batch in _batches(members, BATCH):
                    written += sum(pool.map(place, range(done, done + len(batch)), batch))
                    done += len(batch)
                    self.told(len(batch))
                    if done - journal.done >= SYNC_EVERY or done == plan.members:
                        journal.note(done)
        return written


class _Journal:
    """How many members of an archive are on the disk, whatever happens; one process at a time holds it."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open the notes about the archive of this fingerprint; those about another one are thrown away.

        Raises:
            BlockingIOError: another process holds it.
        """
        self._file = open_for_append(path)
        notes = [note for _, note in whole_lines(path)]
        self.done = 0
        if notes and notes[0].get("fingerprint") == fingerprint:
            self.done = max(int(note["done"]) for note in notes)
            return
        self._file.truncate(0)
        self._write({"fingerprint": fingerprint, "done": 0})

    def note(self, done: int) -> None:
        """Force everything to the disk, and note that so many members are there."""
        if done > self.done:
            os.sync()
            self._write({"done": done})
            self.done = done

    def _write(self, note: dict[str, object]) -> None:
        self._file.write(json_line(note))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Placing:
    """Brings members of one slice to their places.

    Attributes:
        out: folder of the set.
        scratch: holds the files that are not whole yet.
        zipped: opens the members.
        paths: pieces of the zip, for messages.
        trusted: how many members are known to be on the disk.
    """

    out: Path
    scratch: Path
    zipped: zipfile.ZipFile
    paths: tuple[Path, ...]
    trusted: int

    def __call__(self, index: int, member: Member) -> bool:
        """Bring a member, `index` of those that are wanted, to its place unless it is there; whether it was written."""
        target = self.out / member.path
        if _has_size(target, member) and (index < self.trusted or _checksum(target) == member.info.CRC):
            return False
        part = self.scratch / str(index)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.zipped.open(member.info) as source, open(part, "wb") as file:
                shutil.copyfileobj(source, file, COPY_BYTES)
            if part.stat().st_size != member.info.file_size:
                raise zipfile.BadZipFile(f"{part.stat().st_size} bytes of {member.info.file_size}")
            os.replace(part, target)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise PrepareError(self._damage(member, error)) from error
        except OSError as error:
            raise PrepareError(_unwritten(target, error)) from error
        return True

    def _damage(self, member: Member, error: Exception) -> str:
        """Which member is broken, in which pieces it lies, and what to do."""
        begin = member.info.header_offset
        with Pieces(self.paths) as pieces:
            ends = (begin, begin + member.info.compress_size)
            lying_in = list(dict.fromkeys(map(pieces.piece_at, ends)))
        names = " and ".join(path.name for path in lying_in)
        cure = f"{checksum_cure(lying_in)}, and start the same command again: it goes on from here"
        return f"{member.path}: damaged in {names} ({error}); {cure}"


def _unwritten(target: Path, error: OSError) -> str:
    if error.errno in FULL:
        free = shutil.disk_usage(target.parent).free / 1e9
        return f"{target}: the disk is full ({free:.2f} GB free); make room and start the same command again"
    if error.errno == errno.ENAMETOOLONG:
        return f"{target}: the name is too long for this file system; take another --out"
    return f"{target}: not written ({error}); mend it and start the same command again"


def _has_size(path: Path, member: Member) -> bool:
    try:
        return os.stat(path).st_size == member.info.file_size
    except (FileNotFoundError, NotADirectoryError):
        return False


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(COPY_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _batches(members: Sequence[Member], size: int) -> Iterator[Sequence[Member]]:
    return (members[first : first + size] for first in range(0, len(members), size))
