"""Log-probs of answers on disk, by content: what the reference computed once is never computed again.

A record is 24 bytes: the 16-byte key of prompt, images and answer, and the log-prob as float64. One folder holds one
reference. A process that fills it appends to a shard of its own name, locked while it lives, so that several ranks and
several runs may fill one cache at a time, and a kill loses at most the record that was being written. `merge` turns
the shards that nobody writes to any more into one sorted file, which every process maps into memory and searches.
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
RECORD = np.dtype([("key", f"S{KEY_BYTES}"), ("logp", "<f8")])
SORTED_NAME = "logps.npy"
LOCK_NAME = "merge.lock"


class LogpsCache:
    """The records of one folder.

    `S` keys ignore trailing zero bytes when compared; as all have 16 bytes, equal still means equal.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        """Open a cache, made when absent.

        Args:
            folder: of this reference.
            rank: in the name of this process's shard, for people who look.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank = rank
        self.shard: BinaryIO | None = None  # opened by the first record
        self.recent: dict[bytes, float] = {}
        self.reload()

    def reload(self) -> None:
        """Read the shards that are not merged yet, then map the sorted file again.

        In this order: a shard that another process merges meanwhile is in the sorted file by the time that is opened.
        """
        records = _records(self._shards())
        self.recent = {bytes(key).ljust(KEY_BYTES, b"\0"): float(logp) for key, logp in records}
        self.sorted = self._load_sorted()

    def _load_sorted(self) -> np.ndarray:
        path = self.folder / SORTED_NAME
        return np.load(path, mmap_mode="r") if path.is_file() else np.empty(0, RECORD)

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.shard"))

    def __len__(self) -> int:
        return len(self.sorted) + len(self.recent)

    def lookup(self, keys: Sequence[bytes]) -> np.ndarray:
        """Log-probs (len(keys),) in nats, NaN where a key is not known."""
        wanted = np.array(keys, f"S{KEY_BYTES}")
        found = np.full(len(keys), np.nan)
        if len(self.sorted):
            positions = np.minimum(np.searchsorted(self.sorted["key"], wanted), len(self.sorted) - 1)
            records = self.sorted[positions]
            found = np.where(records["key"] == wanted, records["logp"], found)
        return np.array([self.recent.get(key, logp) for key, logp in zip(keys, found, strict=True)])

    def append(self, keys: Sequence[bytes], logps: Sequence[float], rows: Sequence[str] = ()) -> None:
        """Add records to this process's shard; the operating system has them when this returns.

        Args:
            keys: of the answers, KEY_BYTES each.
            logps: in nats.
            rows: ids of the rows that they belong to, for the error.

        Raises:
            FloatingPointError: a log-prob is NaN or infinite; none of these records is stored.
        """
        wrong = [logp for logp in logps if not np.isfinite(logp)]
        if wrong:
            raise FloatingPointError(
                f"the reference gives {wrong[0]} for {len(wrong)} of {len(logps)} answers of rows {list(rows)}, which "
                f"is not stored in {self.folder}: the weights of --model_name_or_path are damaged, or float16 is too "
                "small for them and --bf16 True does better"
            )
        self.shard = self.shard or self._open_shard()
        self.shard.write(np.array(list(zip(keys, logps, strict=True)), RECORD).tobytes())
        self.shard.flush()
        self.recent.update(zip(keys, logps, strict=True))

    def _open_shard(self) -> BinaryIO:
        """A locked shard of a name that no other process has; it gets the name when the lock is there."""
        path = self.folder / f"rank-{self.rank:05d}-{uuid.uuid4().hex}.shard"
        file = path.with_suffix(".new").open("xb")
        _lock(file, fcntl.LOCK_EX)
        path.with_suffix(".new").rename(path)
        return file

    def close(self) -> None:
        """Leave this process's shard to whoever merges next; a later `append` begins another one."""
        if self.shard is not None:
            _lock(self.shard, fcntl.LOCK_UN)  # also for a data loader's workers, which inherited the open file
            self.shard.close()
            self.shard = None

    def is_filled(self, data_name: str) -> bool:
        """Whether `mark_filled` was told of these data."""
        return (self.folder / f"filled-{data_name}").exists()

    def mark_filled(self, data_name: str) -> None:
        """Remember that all answers of these data are here."""
        (self.folder / f"filled-{data_name}").touch()

    def forget_filled(self) -> None:
        """Remember it no longer, so that the next run looks at every row again."""
        for mark in self.folder.glob("filled-*"):
            mark.unlink(missing_ok=True)

    def merge(self) -> None:
        """Move the shards that no live process holds into the sorted file, one process at a time.

        Where the file system has no locks nobody can tell which those are: all shards stay, and are read as they are.
        """
        self.close()
        with (self.folder / LOCK_NAME).open("ab") as lock:
            _lock(lock, fcntl.LOCK_EX)
            left = [shard for shard in self._shards() if _is_left(shard)]
            records = np.concatenate([self._load_sorted(), _records(left)])
            _, positions = np.unique(records["key"], return_index=True)
            with replacing(self.folder / SORTED_NAME) as fresh, fresh.open("wb") as file:
                np.save(file, records[positions])
            for shard in left:
                shard.unlink()
        self.reload()


def _records(shards: Iterable[Path]) -> np.ndarray:
    """The whole records of some shards, (records,) RECORD; of one that is merged and gone by now, none."""
    found = [np.empty(0, RECORD)]
    for shard in shards:
        with suppress(FileNotFoundError):
            found.append(np.fromfile(shard, RECORD))  # without the torn one at the end
    return np.concatenate(found)


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
    with shard.open("rb+") as file:  # NFS locks only what is open for writing
        return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
