"""Log-probs of answers on disk, by content: what the reference computed once is never computed again.

A record is 24 bytes: the 16-byte key of prompt, images and answer, and the log-prob as float64. One folder holds one
reference. Beside the log-probs it may hold an index of rows (`internvl_chat.reference.rows`), which only saves time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from internvl_chat.reference.records import KEY_BYTES, KeyedRecords

RECORD = np.dtype([("key", f"S{KEY_BYTES}"), ("logp", "<f8")])
SORTED_NAME = "logps.npy"


class LogpsCache(KeyedRecords):
    """The log-probs of one reference, by the keys of answers."""

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        """Open a cache, made when absent.

        Args:
            folder: of this reference.
            rank: in the name of this process's shard, for people who look.
        """
        super().__init__(folder, RECORD, SORTED_NAME, suffix=".shard", rank=rank)

    def lookup(self, keys: Sequence[bytes]) -> np.ndarray:
        """Log-probs (len(keys),) in nats, NaN where a key is not known."""
        records, is_known = self.find(keys)
        return np.where(is_known, records["logp"], np.nan)

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
        self.add(list(zip(keys, logps, strict=True)))

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
