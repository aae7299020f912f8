"""Flags of `tools/validate.py` beside those of the data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from internvl_chat.data.arguments import described


@dataclass
class ValidationArguments:
    """How to check; which data and how they are read, the flags of the training say."""

    model_name_or_path: str = described("", "Checkpoint whose tokenizer counts; without it lengths are not checked.")
    output_dir: Path = described(Path("validation"), "Folder of the report.")
    num_workers: int = described(0, "Processes; 0 for one per CPU core.")
    decode: bool = described(True, "Decode images whole, which finds those cut short; False reads headers only.")
    allow_no_rejected: bool = described(False, "Rows may lack a rejected answer, as for --loss_type sft.")
    strict: bool = described(False, "Let warnings fail, too.")
    max_skipped_share: float = described(0.0, "Share of rows that may be unusable, 0 to 1; training skips so many.")

    def __post_init__(self) -> None:
        """Count the cores.

        Raises:
            ValueError: a number of workers below 0, or a share outside of 0..1.
        """
        self.output_dir = Path(self.output_dir)
        if self.num_workers < 0:
            raise ValueError(f"--num_workers {self.num_workers} must be at least 0")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"--max_skipped_share {self.max_skipped_share} is not in [0, 1]")
        self.num_workers = self.num_workers or len(os.sched_getaffinity(0))
