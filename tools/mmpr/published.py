"""The five published MMPR sets: their names on the hub, and the files that make up each.

    set                  archives                                             beside them
    MMPR, -v1.1, -v1.2   images, annotations                                  meta.json
    MMPR-v1.2-prompts    correctness_images, correctness_prompts,
                         dropoutntp_images, dropoutntp_prompts
    MMPR-Tiny            images                                               mmpr_tiny.parquet

An archive is one zip, or a zip that was cut into pieces (`pieces`). Source: the hub's listings of these repositories.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

OWNER = "OpenGVLab"
META = "meta.json"
TABLE = "mmpr_tiny.parquet"
DOWNLOADS = "download"  # below the output folder of a set: where what the hub sends is kept


class PrepareError(ValueError):
    """Files that cannot be prepared; names the file, what is wrong with it, and the cure."""


@dataclass(frozen=True)
class PublishedSet:
    """One published set.

    Attributes:
        name: of its repository, which is the first part of many paths in it.
        kind: what is made of it: pairs with a meta.json, prompts of both pipelines, or prompts of online training.
        archives: names of its zips, without ending.
        companions: files beside the zips.
    """

    name: str
    kind: Literal["pairs", "prompts", "online"]
    archives: tuple[str, ...]
    companions: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        """Its name on the hub."""
        return f"{OWNER}/{self.name}"

    def patterns(self, archives: Iterable[str]) -> list[str]:
        """Patterns of the repository's files that these archives need."""
        return [*self.companions, *(f"{archive}.zip*" for archive in archives)]

    def download_command(self, folder: Path, *files: str) -> str:
        """What fetches the set, or some files of it, into a folder; goes on where it stopped."""
        words = ["hf download", self.repository, *files, "--repo-type dataset --local-dir", str(folder)]
        return " ".join(words)


_PAIRS = ("images", "annotations")
_PROMPTS = ("correctness_images", "correctness_prompts", "dropoutntp_images", "dropoutntp_prompts")
SETS = {
    one.name: one
    for one in (
        PublishedSet("MMPR", "pairs", _PAIRS, (META,)),
        PublishedSet("MMPR-v1.1", "pairs", _PAIRS, (META,)),
        PublishedSet("MMPR-v1.2", "pairs", _PAIRS, (META,)),
        PublishedSet("MMPR-v1.2-prompts", "prompts", _PROMPTS),
        PublishedSet("MMPR-Tiny", "online", ("images",), (TABLE,)),
    )
}


def recognise(folder: Path) -> PublishedSet | None:
    """The set that a folder holds, by its name, else by its files; None where it holds none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    archives = {archive for published in SETS.values() for archive in published.archives}
    if not any(".zip" in name or name in archives for name in names):
        return None
    if folder.name in SETS:
        return SETS[folder.name]
    if TABLE in names:
        return SETS["MMPR-Tiny"]
    if any(name.startswith(_PROMPTS) for name in names):
        return SETS["MMPR-v1.2-prompts"]
    if META not in names:
        return None
    text = (folder / META).read_text(encoding="utf-8", errors="replace")
    versions = (name for name in ("MMPR-v1.2", "MMPR-v1.1") if f"{name}/" in text)
    return SETS[next(versions, "MMPR")]
