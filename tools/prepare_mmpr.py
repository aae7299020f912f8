"""MMPR as it is published, to data that trains: download, unpack, repair the paths, count what cannot be used.

    python tools/prepare_mmpr.py --source OpenGVLab/MMPR-v1.1 --out data/mmpr              downloads what is missing
    python tools/prepare_mmpr.py --source MMPR-v1.2 --out data/mmpr                        a folder, offline
    python tools/prepare_mmpr.py --source OpenGVLab --sets MMPR-v1.2-prompts MMPR-Tiny --out data/mmpr

Sets: MMPR, MMPR-v1.1, MMPR-v1.2, MMPR-v1.2-prompts, MMPR-Tiny. Zips in pieces are read as they are, without joining
them; a set that is unpacked already is taken as it is by --link. Writes below --out, in a folder per set:

    images/, annotations/     each file once; DropoutNTP and correctness prompts: their own folders
    meta.json                 paths relative to itself: `tools/validate.py` and the launchers take it as it is
    prompts/, prompts.jsonl   of the sets of prompts, for the pipelines and for online training
    usable/                   annotation files some of whose rows cannot be used, without these rows
    left_out.jsonl            every such row and why: {data_set, file, line, fault, reason}
    prepared.json             what was counted

Stopped anywhere, killed too, the same command goes on. The exit code is 0, or 2 with what is wrong and its cure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from internvl_chat.records.durable import json_text, write_atomically
from internvl_chat.run.bars import track
from internvl_chat.run.entry import Parser, at_least, enter
from tools.mmpr.pairs import USABLE, prepare_pairs
from tools.mmpr.pieces import check_sums, find_pieces
from tools.mmpr.prompts import PROMPTS, READERS, prepare_online, prepare_prompts
from tools.mmpr.published import META, SETS, TABLE, PrepareError, PublishedSet
from tools.mmpr.sources import DownloadedSet, find_sources
from tools.mmpr.unpack import WORK, Unpacker
from tools.mmpr.unpacked import link_folder, unpacked_folder

RECORD = "prepared.json"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source", required=True, help="a folder with the downloaded files of a set, or with a folder per set; or a "
        "name on the hub: OpenGVLab/MMPR-v1.1, or OpenGVLab with --sets")  # fmt: skip
    add("--out", type=Path, required=True, help="folder to write; each set goes to a folder of its name in it")
    add("--sets", nargs="+", choices=sorted(SETS), help="which sets; default: what the source names or holds")
    add("--archives", nargs="+", metavar="NAME", help="only these zips of a set, such as correctness_images "
        "correctness_prompts")  # fmt: skip
    add("--link", action="store_true", help="link folders that are unpacked in --source, write nothing a second time")
    add("--revision", help="of the repository on the hub")
    add("--verify", action="store_true", help="compare all files with the hub's checksums first, where these are known")
    add("--name_encoding", default="utf-8", help="of names in zips that do not say that they are UTF-8")
    add("--num_threads", type=at_least(1), default=4, help="that write files (default: %(default)s)")
    return parser.parse_args(argv)


def prepare(source: DownloadedSet, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Prepare one set below `out`; returns what prepared.json says.

    Raises:
        PrepareError: files are missing or damaged; says what to do.
        OSError: a file cannot be read or written.
    """
    begin, folder = time.monotonic(), out / source.published.name
    archives = wanted_archives(source.published, args.archives)
    source.fetch(archives, args.revision)
    linked = {archive: found for archive in archives if args.link and (found := unpacked_folder(source, archive))}
    for archive, found in linked.items():
        link_folder(folder / archive, found)
    pieces = {archive: require_pieces(source, archive) for archive in archives if archive not in linked}
    checked = check_sums(path for paths in pieces.values() for path in paths) if args.verify else 0
    unpacked: dict[str, Any] = {archive: {"linked": str(found)} for archive, found in linked.items()}
    for archive, paths in pieces.items():
        with track(desc=f"{archive}.zip", unit=" files") as bar:
            unpacker = Unpacker(folder, args.num_threads, args.name_encoding, bar.update)
            unpacked[archive] = asdict(unpacker.unpack(archive, paths))
    clear(folder)
    data_sets = finish(source, folder, archives)
    record = {
        "set": source.published.name,
        "source": str(source.name),
        "checksums_compared": checked,
        "archives": unpacked,
        "data_sets": data_sets,
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_atomically(folder / RECORD, [json_text(record)])
    return record


def require_pieces(source: DownloadedSet, archive: str) -> list[Path]:
    """The pieces of an archive; PrepareError where there is none."""
    if paths := find_pieces(source.folder, archive):
        return paths
    if found := unpacked_folder(source, archive):
        raise PrepareError(
            f"{source.folder}: no {archive}.zip and no piece of it, but {found} is unpacked: take --link"
        )
    cure = source.published.download_command(source.folder, f"--include '{archive}.zip*'")
    raise PrepareError(f"{source.folder}: no {archive}.zip and no piece of it; {cure}")


def wanted_archives(published: PublishedSet, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The archives of a set that are asked for; ValueError for a name that it does not have."""
    if unknown := sorted(set(asked or ()) - set(published.archives)):
        raise PrepareError(f"--archives {' '.join(unknown)}: {published.name} has {', '.join(published.archives)}")
    return tuple(archive for archive in published.archives if asked is None or archive in asked)


def finish(source: DownloadedSet, folder: Path, archives: Sequence[str]) -> dict[str, Any]:
    """What follows once the zips of a set are unpacked; the counts by data set."""
    if source.published.kind == "prompts":
        kinds = [kind for kind in READERS if {f"{kind}_images", f"{kind}_prompts"} <= set(archives)]
        return prepare_prompts(folder, kinds)
    if source.published.kind == "online":
        return prepare_online(folder, source.companion(TABLE))
    return prepare_pairs(folder, published_meta(source, folder))


def clear(folder: Path) -> None:
    """Remove what a kill left of files that were being replaced."""
    for place in (folder, folder / USABLE, folder / WORK, *(folder / PROMPTS).rglob("*/")):
        for path in place.glob("*.tmp"):
            path.unlink()


def published_meta(source: DownloadedSet, folder: Path) -> Path:
    """meta.json as published; a copy where ours takes its place."""
    published = source.companion(META)
    if source.folder.resolve() != folder.resolve():
        return published
    copy = folder / WORK / META
    if not copy.is_file():
        write_atomically(copy, [published.read_bytes()])
    return copy


def tell(record: dict[str, Any], folder: Path) -> None:
    """Print what was counted, and what comes next."""
    sets = record["data_sets"]
    sums = {
        name: sum(found[name] for found in sets.values()) for name in ("rows", "usable", "text_only", "several_images")
    }
    print(
        f"{folder}: {len(sets)} data sets, {sums['rows']:,} rows, {sums['usable']:,} usable, {sums['text_only']:,} "
        f"without images, {sums['several_images']:,} with several; {record['seconds']:,.0f} s"
    )
    for name, found in sets.items():
        for fault, count in found["faults"].items():
            print(f"  {name}: {count:,} rows left out, {fault}")
    print(next_step(folder, record["set"]))


def next_step(folder: Path, name: str) -> str:
    """The command that takes what was written."""
    kind, root = SETS[name].kind, f"--image-root {folder}"
    if kind == "prompts":
        script = "tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness.py"
        return f"next: python {script} --prompt-path {folder}/prompts/correctness/<name>.jsonl {root} .."
    if kind == "online":
        return f"prompts for online training: {folder / 'prompts.jsonl'}, {root}"
    return f"next: python tools/mixture.py {folder / META}"


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare all sets that are asked for.

    Raises:
        PrepareError, OSError: as of `prepare`; what was prepared before stays.
    """
    args = parse_arguments(argv)
    for source in find_sources(args.source, args.sets, args.out):
        tell(prepare(source, args.out, args), args.out / source.published.name)


if __name__ == "__main__":
    enter(main)
