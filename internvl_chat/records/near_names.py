"""The file that was probably meant where a path leads nowhere: another case, another Unicode form, another extension.

For messages only. Names that differ in what a look does not show are the most frequent reason for images that are "not
there": archives made on a Mac hold decomposed letters, cameras write .JPG, converters change the extension.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote

MOST_ENTRIES = 20_000  # of a folder that are looked at; listing millions would take longer than the message is worth


def near_name(base: str, path: str) -> str | None:
    """A path below `base` that is there and differs from `path` in case, Unicode form, %20, \\ or extension only."""
    found = ""
    parts = [part for part in unquote(path).replace("\\", "/").split("/") if part not in ("", ".")]
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        entry = _nearest(os.path.join(base, found), part, alike=(_plain, _stem) if is_last else (_plain,))
        if entry is None:
            return None
        found = os.path.join(found, entry)
    return found if found and found != path and os.path.isfile(os.path.join(base, found)) else None


def _nearest(folder: str, name: str, *, alike: tuple[Callable[[str], str], ...]) -> str | None:
    """The entry of a folder with this name, else the first that is the same by one of the forms."""
    if os.path.lexists(os.path.join(folder, name)):
        return name
    entries = _entries(folder)
    return next((entry for form in alike for entry in entries if form(entry) == form(name)), None)


@lru_cache(maxsize=16)
def _entries(folder: str) -> tuple[str, ...]:
    """Names in a folder, in order; remembered, as rows with missing images come by the thousand."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry in islice(entries, MOST_ENTRIES)))
    except OSError:
        return ()


def _plain(name: str) -> str:
    """A name without what a look at it does not show."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _stem(name: str) -> str:
    return os.path.splitext(_plain(name))[0]
