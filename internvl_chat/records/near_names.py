"""The file that was probably meant where a path leads nowhere: another case, Unicode form or extension, a slip.

For messages only. Names that differ in what a look does not show are the most frequent reason for images that are "not
there": archives made on a Mac hold decomposed letters, cameras write .JPG, converters change the extension.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote

ALIKE = 0.75  # of two names, by difflib, at least: `imgs` and `images` are 0.8
MOST_ENTRIES = 20_000  # of a folder that are looked at; listing millions would take longer than the message is worth


def near_name(
    base: str, path: str, *, is_there: Callable[[str], bool] = os.path.isfile, slips: bool = False
) -> str | None:
    """A path below `base` that is there and differs from `path` in case, Unicode form, %20, \\ or extension only.

    Args:
        base: folder.
        path: as it was written, from there.
        is_there: whether a path is of the kind that is looked for; files by default.
        slips: names that differ by a slip of the fingers count, too: of names that a person typed.
    """
    found = ""
    parts = [part for part in unquote(path).replace("\\", "/").split("/") if part not in ("", ".")]
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        folder = os.path.join(base, found)
        entry = _nearest(folder, part, alike=(_plain, _stem) if is_last else (_plain,))
        if entry is None and slips:
            entry = next(iter(difflib.get_close_matches(part, _entries(folder), n=1, cutoff=ALIKE)), None)
        if entry is None:
            return None
        found = os.path.join(found, entry)
    return found if found and found != path and is_there(os.path.join(base, found)) else None


def did_you_mean(path: str, bases: Sequence[str] = (".",), is_there: Callable[[str], bool] = os.path.isfile) -> str:
    """ "; did you mean ..?" where a path that a person typed is nearly one that is there, else "".

    Args:
        path: absolute, or from any of `bases`.
        bases: folders, the nearest first.
        is_there: as of `near_name`.
    """
    root = os.path.sep if os.path.isabs(path) else ""
    for base in (root,) if root else bases:
        if near := near_name(os.path.abspath(base), path, is_there=is_there, slips=True):
            return f"; did you mean {os.path.join(root, near)}?"
    return ""


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
