"""Sizes and folders of the study, and stages that are done once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Sizes of the study, the same for all seeds and arms."""

    base: Path
    out: Path
    prompts: int
    held_out: int
    samples: int
    pairs_per_prompt: int
    steps: int
    learning_rate: float

    def folder(self, seed: int) -> Path:
        """Everything about one seed."""
        return self.out / f"seed{seed}"

    def run_of(self, seed: int, arm: str) -> Path:
        """Checkpoint of an arm; its figures stand beside, under names that end otherwise."""
        return self.folder(seed) / "runs" / arm.replace(" ", "_").replace(".", "_")


def once(path: Path, stage: Callable[[], Any]) -> dict[str, Any]:
    """What `path` holds, or what the stage returns, written there when it is whole."""
    if not path.is_file():
        start = time.perf_counter()
        found = {**(stage() or {}), "seconds": round(time.perf_counter() - start, 1)}
        whole = path.with_suffix(".tmp")
        whole.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        whole.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))
