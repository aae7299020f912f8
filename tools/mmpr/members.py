"""What a zip may put where: every member is checked before one is written.

A member lands below the folder of its archive, whatever prefix it was zipped with: `MMPR/images/a.png`, `images/a.png`
and `a.png` of images.zip are all images/a.png. Refused are paths that lead elsewhere, links, encrypted members, two
different members of one path, overlapping members, and sizes that only a bomb has.
"""

from __future__ import annotations

import stat
import zipfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import xxhash

from internvl_chat.records.rows import shown
from tools.mmpr.directory import Directory
from tools.mmpr.published import SETS, PrepareError

UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 0x1
MOST_BYTES = 1 << 36  # of a member: 64 GB, more than any annotation file or picture
MOST_RATIO = 200  # of a member's bytes to those in the zip, above SMALL_BYTES; JSONL reaches 30
SMALL_BYTES = 1 << 24
HEADER_BYTES = 30  # of a local header, its name not counted
SYSTEM_PARTS = ("__MACOSX", ".DS_Store", "Thumbs.db")


@dataclass(frozen=True)
class Member:
    """One file of a zip: its number, its entry, and its path below the output folder, parts joined by /."""

    number: int
    info: zipfile.ZipInfo
    path: str


@dataclass(frozen=True)
class MemberPlan:
    """What of an archive will be unpacked; every member was checked.

    Attributes:
        archive: its name without ending.
        directory: of the zip.
        encoding: of names that do not say that they are UTF-8.
        members: files that will be there.
        total_bytes: of them.
        repeated: numbers of members left out because one of equal path and content comes before.
        system_files: numbers of members left out because they are what operating systems put into zips.
        fingerprint: names the content: paths, sizes and checksums.
    """

    archive: str
    directory: Directory
    encoding: str
    members: int
    total_bytes: int
    repeated: frozenset[int]
    system_files: frozenset[int]
    fingerprint: str

    def slices(self) -> Iterator[tuple[zipfile.ZipFile, list[Member]]]:
        """The members that will be unpacked, with the zip that opens them, some thousand at a time."""
        left_out = self.repeated | self.system_files
        for opened, members in _numbered(self.directory, self.archive, self.encoding):
            yield opened, [member for member in members if member.number not in left_out]


def plan_members(directory: Directory, archive: str, encoding: str = "utf-8") -> MemberPlan:
    """Check all members of a zip; a pass over its directory, 40 bytes a member in memory.

    Args:
        directory: of the zip.
        archive: its name without ending: the folder that its members go below.
        encoding: of names that do not say that they are UTF-8.

    Raises:
        PrepareError: a member is refused; names it, why, and the cure.
    """
    facts = _Facts()
    for _, members in _numbered(directory, archive, encoding):
        for member in members:
            facts.add(member)
    repeated = facts.repeated(archive)
    facts.check_folders(archive)
    facts.check_overlaps(archive)
    kept = len(facts.keys) - len(repeated)
    total = sum(facts.sizes) - sum(facts.sizes[bisect_left(facts.numbers, number)] for number in repeated)
    left_out = frozenset(facts.system_files)
    return MemberPlan(
        archive, directory, encoding, kept, total, frozenset(repeated), left_out, facts.digest.hexdigest()
    )


def _numbered(directory: Directory, archive: str, encoding: str) -> Iterator[tuple[zipfile.ZipFile, list[Member]]]:
    """The files of a zip, slice by slice; folders have no entry of their own."""
    number = 0
    for opened in directory.slices():
        infos = [info for info in opened.infolist() if not info.is_dir()]
        yield (
            opened,
            [Member(number + place, info, target_path(info, archive, encoding)) for place, info in enumerate(infos)],
        )
        number += len(infos)


@dataclass
class _Facts:
    """What is known of the members so far, in arrays: the checks that compare members with each other."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("Q"))  # hashes of paths
    contents: array[int] = field(default_factory=lambda: array("Q"))  # hashes of size and checksum
    sizes: array[int] = field(default_factory=lambda: array("q"))
    spans: array[int] = field(default_factory=lambda: array("q"))  # first byte in the zip, bytes there, ...
    folders: set[str] = field(default_factory=set)
    system_files: list[int] = field(default_factory=list)
    digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    def add(self, member: Member) -> None:
        """Check one member and note it."""
        info = member.info
        _check_member(info)
        self.spans.extend((info.header_offset, info.compress_size + HEADER_BYTES))
        if any(part in SYSTEM_PARTS for part in member.path.split("/")):
            self.system_files.append(member.number)
            return
        content = f"{info.file_size} {info.CRC}"
        self.numbers.append(member.number)
        self.keys.append(xxhash.xxh3_64_intdigest(member.path.encode()))
        self.contents.append(xxhash.xxh3_64_intdigest(content.encode()))
        self.sizes.append(info.file_size)
        self.folders.add(member.path.rpartition("/")[0])
        self.digest.update(f"{member.path}\0{content}\0".encode())

    def repeated(self, archive: str) -> list[int]:
        """Numbers of members of which an equal one comes before.

        Raises:
            PrepareError: two members have one path and different content.
        """
        keys, contents = np.array(self.keys, np.uint64), np.array(self.contents, np.uint64)
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        for place in same:
            if contents[order[place]] != contents[order[place + 1]]:
                numbers = [self.numbers[order[place]], self.numbers[order[place + 1]]]
                problem = f"members {numbers[0] + 1} and {numbers[1] + 1} have one name and different content"
                raise PrepareError(
                    f"{archive}.zip: {problem}; `unzip -l` lists them: fetch it again from the hub, or take the wrong "
                    "one out with `zip -d`"
                )
        return [self.numbers[order[place + 1]] for place in same]

    def check_folders(self, archive: str) -> None:
        """Raise PrepareError where one member is the folder of another."""
        keys = np.unique(np.array(self.keys, np.uint64))
        every = {"/".join(parts[:depth]) for parts in (f.split("/") for f in self.folders) for depth in _depths(parts)}
        names = sorted(every)
        hashes = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], np.uint64)
        both = np.flatnonzero(np.isin(hashes, keys))
        if len(both):
            name = shown(names[both[0]])
            raise PrepareError(f"{archive}.zip: {name} is a file and a folder; fetch it again from the hub")

    def check_overlaps(self, archive: str) -> None:
        """Raise PrepareError where members share bytes, as those of the best bombs do."""
        spans = np.array(self.spans, np.int64).reshape(-1, 2)
        spans = spans[np.argsort(spans[:, 0], kind="stable")]
        overlaps = np.flatnonzero(spans[:-1].sum(axis=1) > spans[1:, 0])
        if len(overlaps):
            at = spans[overlaps[0] + 1, 0]
            raise PrepareError(
                f"{archive}.zip: two members share bytes at {at:,}: a bomb, or a damaged directory; fetch it again"
            )


def _depths(parts: list[str]) -> range:
    """How many of a folder's parts make a folder below that of the archive."""
    return range(2, len(parts) + 1)


def target_path(info: zipfile.ZipInfo, archive: str, encoding: str) -> str:
    """Where a member goes, below the output folder.

    Raises:
        PrepareError: its name leads out, or cannot be read.
    """
    name = _decoded_name(info, archive, encoding)
    parts = name.split("/")
    unsafe = name.startswith("/") or "\\" in name or ":" in parts[0] or ".." in parts
    if unsafe or "\0" in name or not name.strip("/. "):
        reason = "leads out of the folder that it is unpacked to" if unsafe else "is no path"
        raise PrepareError(f"{archive}.zip: member {shown(name)} {reason}; this is not the published file: nothing of "
                           "it is unpacked, fetch it again from the hub")  # fmt: skip
    parts = [part for part in parts if part not in ("", ".")]
    if len(parts) > 1 and parts[0] in SETS:
        parts = parts[1:]
    return "/".join(parts if parts[0] == archive and len(parts) > 1 else [archive, *parts])


def _decoded_name(info: zipfile.ZipInfo, archive: str, encoding: str) -> str:
    """The name of a member: as it says, else as bytes in `encoding`; zipfile reads such bytes as cp437."""
    if info.flag_bits & UTF8_FLAG or info.orig_filename.isascii():
        return info.filename if "\0" not in info.orig_filename else info.orig_filename
    try:
        return info.orig_filename.encode("cp437").decode(encoding)
    except UnicodeError as error:
        cure = "name the encoding of its names, such as --name_encoding gbk"
        raise PrepareError(
            f"{archive}.zip: member {shown(info.filename)} is not named in {encoding}: {cure}"
        ) from error


def _check_member(info: zipfile.ZipInfo) -> None:
    """Raise PrepareError for a member that is no plain file of a sane size."""
    problem = ""
    if stat.S_ISLNK(info.external_attr >> 16):
        problem = "is a link"
    elif info.flag_bits & ENCRYPTED_FLAG:
        problem = "is encrypted"
    elif info.file_size > MOST_BYTES:
        problem = f"says that it has {info.file_size:,} bytes"
    elif info.file_size > max(SMALL_BYTES, MOST_RATIO * info.compress_size):
        problem = f"says that {info.compress_size:,} bytes become {info.file_size:,}"
    if problem:
        cure = "no published set has such a member; fetch the zip again from the hub"
        raise PrepareError(f"member {shown(info.filename)} {problem}: {cure}")
