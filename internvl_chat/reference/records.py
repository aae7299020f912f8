"""Records on disk by key, which several processes append to at a time and a kill does not damage.

A record is a 16-byte key and what is known under it, of a fixed size. A process that adds some appends to a shard of
its own name, locked while it lives, so that several ranks and several runs may fill one folder at a time, and a kill
loses at most the record that was being written. `merge` turns the shards that nobody writes to any more into one sorted
file, which every process maps into memory and searches.
"""

from __future__ import annotations

import errno
import fcntl
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from internvl_chat.records.durable import NO_LOCKS, replacing

KEY_BYTES = 16
LOCK_NAME = "merge.lock"


class KeyedRecords:
    """The records of one kind in one folder.

    `S` keys ignore trailing zero bytes when compared; as all have 16 bytes, equal still means equal.
    """

    def __init__(self, folder: str | Path, record: np.dtype, name: str, *, suffix: str, rank: int = 0) -> None:
        """Open the records, and make the folder when it is absent.

        Args:
            folder: where they are.
            record: type of one; its first field is `key`, of KEY_BYTES.
            name: of the sorted file.
            suffix: of the shards.
            rank: in the name of this process's shard, for people who look.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.record, self.name, self.suffix, self.rank = record, name, suffix, rank
        self.shard: BinaryIO | None = None  # opened by the first record
        self.recent: dict[bytes, bytes] = {}  # key -> record
        self.reload()

    def reload(self) -> None:
        """Read the shards that are not merged yet, then map the sorted file again.

        In this order: a shard that another process merges meanwhile is in the sorted file by the time that is opened.
        """
        self.recent = {}
        self._remember(self._read(self._shards()))
        self.sorted = self._load_sorted()

    def _load_sorted(self) -> np.ndarray:
        path = self.folder / self.name
        return np.load(path, mmap_mode="r") if path.is_file() else np.empty(0, self.record)

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{self.suffix}"))

    def _read(self, shards: Iterable[Path]) -> np.ndarray:
        """The whole records of some shards, (records,); of one that is merged and gone by now, none."""
        found = [np.empty(0, self.record)]
        for shard in shards:
            with suppress(FileNotFoundError):
                found.append(np.fromfile(shard, self.record))  # without the torn one at the end
        return np.concatenate(found)

    def _remember(self, records: np.ndarray) -> None:
        content, size = records.tobytes(), self.record.itemsize
        starts = range(0, len(content), size)
        self.recent.update((content[start : start + KEY_BYTES], content[start : start + size]) for start in starts)

    def __len__(self) -> int:
        return len(self.sorted) + len(self.recent)

    def find(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The records of some keys (len(keys),), and whether each is known (len(keys),); zeros where it is not."""
        wanted = np.array(keys, f"S{KEY_BYTES}")
        found, is_known = np.zeros(len(wanted), self.record), np.zeros(len(wanted), bool)
        if len(self.sorted):
            positions = np.minimum(np.searchsorted(self.sorted["key"], wanted), len(self.sorted) - 1)
            found = self.sorted[positions]
            is_known = found["key"] == wanted
        padded = wanted.tobytes()
        for place in range(len(wanted)) if self.recent else ():
            record = self.recent.get(padded[place * KEY_BYTES : (place + 1) * KEY_BYTES])
            if record is not None:
                found[place], is_known[place] = np.frombuffer(record, self.record)[0], True
        return found, is_known

    def add(self, records: Sequence[tuple]) -> None:
        """Add (key, ...) records to this process's shard; the operating system has them when this returns."""
        new = np.array(records, self.record)
        self.shard = self.shard or self._open_shard()
        self.shard.write(new.tobytes())
        self.shard.flush()
        self._remember(new)

    def _open_shard(self) -> BinaryIO:
        """A locked shard of a name that no other process has; it gets the name when the lock is there."""
        path = self.folder / f"rank-{self.rank:05d}-{uuid.uuid4().hex}{self.suffix}"
        file = path.with_suffix(".new").open("xb")
        _lock(file, fcntl.LOCK_EX)
        path.with_suffix(".new").rename(path)
        return file

    def close(self) -> None:
        """Leave this process's shard to whoever merges next; a later `add` begins another one."""
        if self.shard is not None:
            _lock(self.shard, fcntl.LOCK_UN)  # also for a data loader's workers, which inherited the open file
            self.shard.close()
            self.shard = None

    def merge(self) -> None:
        """Move the shards that no live process holds into the sorted file, one process at a time.

        Where the file system has no locks nobody can tell which those are: all shards stay, and are read as they are.
        """
        self.close()
        with (self.folder / LOCK_NAME).open("ab") as lock:
            _lock(lock, fcntl.LOCK_EX)
            left = [shard for shard in self._shards() if _is_left(shard)]
            records = np.concatenate([self._load_sorted(), self._read(left)])
            _, positions = np.unique(records["key"], return_index=True)
            with replacing(self.folder / self.name) as fresh, fresh.open("wb") as file:
                np.save(file, records[positions])
            for shard in left:
                shard.unlink(missing_ok=True)
        self.reload()

    def forget(self) -> None:
        """Remove all of them from the disk; what a live process has still to say is lost with its shard."""
        for path in [self.folder / self.name, *self._shards()]:
            path.unlink(missing_ok=True)


def _lock(file: IO[bytes], operation: int) -> bool:
    """Whether a file could be locked or unlocked; not where the file system has no locks, or another process has it."""
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS | {errno.EWOULDBLOCK}:
            raise
        return False
    return True


def _is_left(shard: Path) -> bool:
    """Whether no live process writes to a shard; then none ever will, as each has its own."""
    try:
        with shard.open("rb+") as file:  # NFS locks only what is open for writing
            return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # forgotten by another run
        return False
