"""Stages that are done once for their settings: a folder each, and its figures beside it when it is whole.

What a stage is made of names its folder, the folders of earlier stages among it. So a study that is called again goes
on with what is not there, and a changed setting makes anew what depends on it, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from benchmarks.study.settings import once

DIGITS = 8


def keyed(work: Path, name: str, made_of: Mapping[str, Any], stage: Callable[[Path], Any]) -> Path:
    """The folder of a stage, made by `stage(folder)` unless it is whole; what that returns stands in folder.json.

    Args:
        work: folder of all stages.
        name: readable beginning of the folder's name.
        made_of: settings, as JSON values, that decide what comes out.
        stage: fills the folder, which is empty or that of a call that was stopped.
    """
    digest = xxhash.xxh3_64_hexdigest(json.dumps(made_of, sort_keys=True).encode())[:DIGITS]
    folder = work / f"{name.replace(' ', '_')}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    once(figures_of(folder), lambda: {"made_of": dict(made_of), **(stage(folder) or {})})
    return folder


def figures_of(folder: Path) -> Path:
    """Where the figures of a stage stand."""
    return folder.with_name(f"{folder.name}.json")


def read_figures(folder: Path) -> dict[str, Any]:
    """What a stage that is done returned."""
    return json.loads(figures_of(folder).read_text(encoding="utf-8"))


def emptied(folder: Path) -> Path:
    """The folder without what a stopped call left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def stages_in(work: Path, name: str) -> list[Path]:
    """The folders of the stages of this name that are done, all of them where the name is but its first word."""
    pattern = f"{name.replace(' ', '_')}{'_*' if ' ' not in name else ''}-{'?' * DIGITS}.json"
    return [path.with_suffix("") for path in sorted(work.glob(pattern))]


def run_stages(stages: Iterable[Callable[[], Path]], minutes: float) -> None:
    """Run stages in their order, each printed when it is there; none is begun after so many minutes."""
    begin = time.monotonic()
    for stage in stages:
        if time.monotonic() - begin > 60 * minutes:
            print(f"{minutes:g} minutes are over: call again for what is left")
            return
        print(stage(), flush=True)
