"""A set that somebody has unpacked: its folders are linked, so that nothing is written a second time.

The folders of `unzip` are recognised as they come: `images/` beside the zips, or `MMPR-v1.1/images/`.
"""

from __future__ import annotations

from pathlib import Path

from tools.mmpr.published import PrepareError
from tools.mmpr.sources import DownloadedSet


def unpacked_folder(source: DownloadedSet, archive: str) -> Path | None:
    """What an archive was unpacked to, beside the downloaded files; None where it was not."""
    places = (source.folder / archive, source.folder / source.published.name / archive)
    return next((place.resolve() for place in places if place.is_dir()), None)


def link_folder(place: Path, target: Path) -> None:
    """Let `place` lead to the folder `target`, unless it is that folder.

    Raises:
        PrepareError: something else is there.
    """
    if place.resolve() == target:
        return
    if place.is_symlink():  # it led elsewhere, or to nothing
        place.unlink()
    elif place.exists():
        raise PrepareError(f"{place}: is a folder of its own, no link to {target}: remove it, or take no --link")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=True)
