"""Log-probs of answers on disk, by content: what the reference said once is never computed again.

A record is 24 bytes: the 16-byte key of prompt, images and answer, and the log-prob as float64. While a cache is being
filled each rank appends to a shard of its own, so a killed run loses at most the record it was writing; `merge` turns
all into one sorted file, which every process maps into memory and searches. One folder holds one reference model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from internvl_chat.records.durable import replacing

KEY_BYTES = 16
RECORD = np.dtype([("key", f"S{KEY_BYTES}"), ("logp", "<f8")])
SORTED_NAME = "logps.npy"


class LogpsCache:
    """The records of one folder.

    `S` keys ignore trailing zero bytes when compared; as all have 16 bytes, equal still means equal.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        """Open a cache, made when absent; the tail that a kill tore off its shard is dropped.

        Args:
            folder: of this reference model.
            rank: names the shard that this process appends to.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shard = self.folder / f"rank-{rank:05d}.shard"
        if self.shard.is_file():
            os.truncate(self.shard, self.shard.stat().st_size // RECORD.itemsize * RECORD.itemsize)
        self.recent: dict[bytes, float] = {}
        self.reload()

    def reload(self) -> None:
        """Map the sorted file again, and read the shards of all ranks that are not merged yet."""
        path = self.folder / SORTED_NAME
        self.sorted = np.load(path, mmap_mode="r") if path.is_file() else np.empty(0, RECORD)
        self.recent = {bytes(key).ljust(KEY_BYTES, b"\0"): float(logp) for key, logp in self._shard_records()}

    def _shard_records(self) -> np.ndarray:
        shards = [np.fromfile(path, RECORD) for path in self._shards()]
        return np.concatenate([np.empty(0, RECORD), *shards])

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.shard"))

    def __len__(self) -> int:
        return len(self.sorted) + len(self.recent)

    def lookup(self, keys: Sequence[bytes]) -> np.ndarray:
        """Log-probs (len(keys),) in nats, NaN where a key is not known."""
        wanted = np.array(keys, f"S{KEY_BYTES}")
        found = np.full(len(keys), np.nan)
        if len(self.sorted):
            places = np.minimum(np.searchsorted(self.sorted["key"], wanted), len(self.sorted) - 1)
            records = self.sorted[places]
            found = np.where(records["key"] == wanted, records["logp"], found)
        return np.array([self.recent.get(key, logp) for key, logp in zip(keys, found, strict=True)])

    def append(self, keys: Sequence[bytes], logps: Sequence[float]) -> None:
        """Add records to this rank's shard; the operating system has them when this returns."""
        with self.shard.open("ab") as file:
            file.write(np.array(list(zip(keys, logps, strict=True)), RECORD).tobytes())
        self.recent.update(zip(keys, logps, strict=True))

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
        """Turn all shards and the sorted file into one sorted file. One process calls it while none appends."""
        records = np.concatenate([self.sorted, self._shard_records()])
        keys, places = np.unique(records["key"], return_index=True)
        with replacing(self.folder / SORTED_NAME) as fresh, fresh.open("wb") as file:
            np.save(file, records[places])
        for shard in self._shards():
            shard.unlink()
        self.reload()
