"""What stands beside the pair files: the record of each finished data set, and the files that tell about all of them.

    finished/<name>.json           options, input files, counts and meta entries of one data set, written last
    finished/<name>.rejects.jsonl  its bad rows
    meta.json summary.json rejects.jsonl   all finished data sets together (and prm_meta.json for conversations)

Every rank publishes after each of its data sets; the last one to finish has seen all of them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from internvl_chat.records.durable import json_line, json_text, read_json, whole_lines, write_atomically
from internvl_chat.records.meta import DatasetSpec
from tools.reasoning_data_pipeline.files.store import describe_differences, read_origin

logger = logging.getLogger(__name__)

RECORD_FIELDS = ("options", "inputs", "meta", "summary")
PROBED_ROWS = 256
DEFAULT_TILES = 12  # where no folder name tells the limit
_TILES = re.compile(r"max_tiles_(\d+)")


def input_record(files: Sequence[Path]) -> list[list[Any]]:
    """Path, bytes and modification time (ns) of each input file: another record means another input."""
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)]


def is_finished(save_dir: Path, name: str, record: Mapping[str, Any]) -> bool:
    """Whether this data set was done with these options and inputs.

    Raises:
        ValueError: it was done with others; names the difference and the cure.
    """
    path = save_dir / "finished" / f"{name}.json"
    if not path.exists():
        return False
    known = read_json(path, RECORD_FIELDS)
    if known["inputs"] != record["inputs"]:
        raise ValueError(f"{path}: the answers have changed since {name!r} was done; do it again with --overwrite")
    if difference := describe_differences(known["options"], record["options"]):
        raise ValueError(f"{path}: {name!r} was done with other options: {difference}; do it again with --overwrite")
    return True


def forget_finished(save_dir: Path, name: str) -> None:
    """Before a data set is done again: a run that is killed half-way must not leave an old record over new files."""
    (save_dir / "finished" / f"{name}.json").unlink(missing_ok=True)


def write_finished(save_dir: Path, name: str, record: Mapping[str, Any], rejects: Iterable[Mapping[str, Any]]) -> None:
    """Record a data set as done; its outputs must be complete."""
    write_atomically(save_dir / "finished" / f"{name}.rejects.jsonl", map(json_line, rejects))
    write_atomically(save_dir / "finished" / f"{name}.json", [json_text(record)])


def publish(save_dir: Path) -> dict[str, Any]:
    """Write meta.json, summary.json and rejects.jsonl of all finished data sets; returns their records by name.

    Looks again after writing: if another rank finished a data set meanwhile, its view may be the older one.
    """
    done: list[Path] = []
    records: dict[str, Any] = {}
    while done != (found := sorted((save_dir / "finished").glob("*.json"))):
        done = found
        records = {path.stem: read_json(path, RECORD_FIELDS) for path in done}
        summaries = {name: record["summary"] for name, record in records.items()}
        rejects = (path.with_suffix(".rejects.jsonl") for path in done)
        for kind in {kind for record in records.values() for kind in record["meta"]}:
            entries = [record["meta"].get(kind, {}) for record in records.values()]
            meta = {name: entry for part in entries for name, entry in part.items()}
            write_atomically(save_dir / kind, [json_text(meta)])
        write_atomically(save_dir / "summary.json", [json_text(summaries)])
        write_atomically(save_dir / "rejects.jsonl", (json_line(row) for p in rejects for _, row in whole_lines(p)))
    return records


def meta_entries(
    annotations: Iterable[tuple[Path, int]], sources: Sequence[Path], folder: Path, image_root: Path | None
) -> dict[str, dict[str, Any]]:
    """Entries of meta.json for pair files, by name.

    Args:
        annotations: pair files and their rows; files without rows get no entry.
        sources: files of sampled answers: their folder tells the tile limit (the largest counts), their run the images.
        folder: of meta.json, which the paths are relative to.
        image_root: a folder to look for images in, before those of the sampling run.
    """
    tiles = max((int(found[1]) for path in sources if (found := _TILES.search(str(path)))), default=DEFAULT_TILES)
    roots = candidate_roots(sources, image_root)
    specs = [
        DatasetSpec(
            name=path.stem,
            root=relative_path(find_image_root(path, roots), folder),
            annotation=relative_path(path, folder),
            max_dynamic_patch=tiles,
            length=length,
        )
        for path, length in annotations
        if length
    ]
    return {spec.name: spec.to_entry() for spec in specs}


def relative_path(path: Path, folder: Path) -> str:
    """A path as seen from the folder of meta.json, so that what lies together can be moved together.

    It stays absolute where the two have nothing in common but the root of the file system.
    """
    full, base = path.resolve(), folder.resolve()
    shared = os.path.commonpath((full, base))
    return str(full) if shared == os.sep else os.path.relpath(full, base)


def candidate_roots(sources: Sequence[Path], image_root: Path | None) -> list[Path]:
    """Folders that image paths may be relative to, in the order of the sampling pipeline."""
    origins = [read_origin(path) for path in sources]
    roots = [Path.cwd(), *([image_root] if image_root else [])]
    roots += [Path(origin["image_root"]) for origin in origins if origin.get("image_root")]
    roots += [Path(origin["prompt_path"]).parent for origin in origins if origin.get("prompt_path")]
    return list(dict.fromkeys(root.resolve() for root in [*roots, *(path.parent for path in sources), Path("/")]))


def find_image_root(pairs: Path, roots: Sequence[Path]) -> Path:
    """The first folder under which most of the first images of a pair file are found; warns when some are not."""
    fields = (row.get("image") or [] for _, row in islice(whole_lines(pairs), PROBED_ROWS))
    images = list(dict.fromkeys(path for image in fields for path in ([image] if isinstance(image, str) else image)))
    best = max(roots, key=lambda root: sum(_is_image(root, path) for path in images))
    if absent := [path for path in images if not _is_image(best, path)]:
        logger.warning(
            "%s: %d of the first %d images, such as %r, are not below %s (looked in %s too): give --image-root",
            *(pairs, len(absent), len(images), absent[0], best, ", ".join(map(str, roots))),
        )
    return best


def _is_image(root: Path, path: str) -> bool:
    full = os.path.normpath(root / path)
    return os.path.commonpath((full, root)) == str(root) and os.path.isfile(full)
