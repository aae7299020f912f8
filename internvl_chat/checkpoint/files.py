"""Checkpoints as files: their checksums, and how a finished one gets its name, at once and for good.

A checkpoint is written under `saving/`. When all ranks are done, `checksums.json` names every file of it, all of it is
on the disk, and the folder is renamed. A kill before that leaves the checkpoint before as it was. Where a checkpoint of
the same name is replaced there are two renames; a kill between them leaves both whole under `saving/`, and
`finish_publishing` completes the second rename at the next start.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from internvl_chat.model.upstream import PREFIX_CHECKPOINT_DIR
from internvl_chat.records.durable import json_text, sync, write_atomically
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

SAVING = "saving"  # folder of unfinished checkpoints
REPLACED = ".replaced"  # end of the name of a checkpoint that makes room for a new one
CHECKSUMS = "checksums.json"
BLOCK = 1 << 24  # bytes read at once


def checksum(path: Path, *, flush: bool = False) -> str:
    """XXH3-128 of a file; with `flush` the file is on the disk, not in a cache, when this returns."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
        if flush:
            os.fsync(file.fileno())
    return digest.hexdigest()


def checksums(folder: Path, rank: int = 0, world_size: int = 1) -> dict[str, dict[str, Any]]:
    """Size in bytes and checksum of every file below a folder; the ranks share the work, a collective."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    mine = {
        name: {"size": (folder / name).stat().st_size, "xxh3_128": checksum(folder / name, flush=True)}
        for name in gather_objects(found)[0][rank::world_size]
    }
    return {name: entry for part in gather_objects(mine) for name, entry in part.items()}


def publish(fresh: Path, final: Path, files: dict[str, dict[str, Any]]) -> None:
    """Write the checksums of a finished checkpoint and give it its name; it replaces one that had the name.

    Args:
        fresh: the folder under `saving/`.
        final: its name.
        files: of `checksums`, which has put each of them on the disk.
    """
    for folder in filter(Path.is_dir, fresh.rglob("*")):
        sync(folder)
    write_atomically(fresh / CHECKSUMS, [json_text({"saved": time.time(), "files": dict(sorted(files.items()))})])
    if final.exists():
        final.replace(_replaced(fresh))
    fresh.replace(final)
    sync(final.parent)
    shutil.rmtree(fresh.parent)


def finish_publishing(run: Path) -> None:
    """Do what a kill kept `publish` from doing: name the checkpoints under `saving/` that are whole.

    A name that is taken stays with the checkpoint that has it. One that made room for a new checkpoint gets its name
    back where the new one is damaged. On one rank, at the start of a run.

    Args:
        run: the output folder.
    """
    names = {path.name.removesuffix(REPLACED) for path in (run / SAVING).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    for fresh in (run / SAVING / name for name in sorted(names) if not (run / name).exists()):
        whole = next(filter(_is_whole, (fresh, _replaced(fresh))), None)
        if whole is not None:
            whole.replace(run / fresh.name)
            sync(run)
            logger.warning("%s: a kill came while this checkpoint got its name; it has it now", run / fresh.name)


def _replaced(fresh: Path) -> Path:
    return fresh.with_name(fresh.name + REPLACED)


def _is_whole(folder: Path) -> bool:
    files = _saved_files(folder)
    return isinstance(files, dict) and _first_difference(folder, files.items()) is None


def damage(folder: Path, rank: int = 0, world_size: int = 1) -> str | None:
    """What is wrong with a checkpoint, naming the file; None where it is as it was saved. Ranks share; a collective."""
    files = _saved_files(folder)
    if isinstance(files, str):
        return files
    found = _first_difference(folder, list(files.items())[rank::world_size])
    return next((finding for finding in gather_objects(found) if finding), None)


def _saved_files(folder: Path) -> dict[str, dict[str, Any]] | str:
    """Size and checksum of each file as they were saved, or why that is not known."""
    try:
        files = json.loads((folder / CHECKSUMS).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / CHECKSUMS} cannot be read ({error}): it was not written to its end"
    return files if isinstance(files, dict) else f"{folder / CHECKSUMS} names no files: it was not written to its end"


def _first_difference(folder: Path, files: Iterable[tuple[str, dict[str, Any]]]) -> str | None:
    for name, saved in files:
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != saved["size"]:
            return f"{path} has {path.stat().st_size} bytes instead of {saved['size']}"
        if checksum(path) != saved["xxh3_128"]:
            return f"{path} is not what was saved: its checksum differs"
    return None
