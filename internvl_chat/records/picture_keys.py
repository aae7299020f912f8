"""Rows that name their pictures by another word: read where it is certain, else refused with the word that is meant.

A key that nobody knows is kept and not looked at, so a row whose picture stands under `img` would become a row of text
and teach answers to pictures that were never shown. `images` and `videos`, of TRL and ms-swift, mean what `image` and
`video` mean here. Beside a filled `image` or `video` any key is legal: published rows have an `image_path` as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_READ = {"image": "image", "images": "image", "video": "video", "videos": "video"}  # in any case
_PLACE = "list|paths?|files?|filenames?|filepaths?|names?|urls?|uri|base64|data"
_KEY = rf"(?:input|source|src|local)?(?:{{}})(?:s|{_PLACE})?"
_PICTURE_KEY = re.compile(_KEY.format("images?|imgs?|pictures?|pics?|photos?"))
_VIDEO_KEY = re.compile(_KEY.format("videos?|vids?"))
# Words that may mean a picture: they count where the value is the name of one.
_VAGUE = "imageid|imgid|videoid|figure|screenshot|visual|media|frame|clip|movie|file|path"
_VAGUE_KEY = re.compile(_KEY.format(_VAGUE))
_PICTURE_FILE = re.compile(r"[^\n]{1,400}\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic)", re.IGNORECASE)
_VIDEO_FILE = re.compile(r"[^\n]{1,400}\.(?:mp4|mkv|webm|avi|mov|m4v)", re.IGNORECASE)


def with_own_keys(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its pictures under `image` or its video under `video`; the same row where there is nothing to do.

    Raises:
        ValueError: a picture stands under a key that is not certain to mean one, several keys name pictures, or the
            value under `images` is not a path, a list of paths, or {"path": ..}. The text is for a `RecordError`.
    """
    if row.get("image") or row.get("video"):
        return row
    found = {key: own for key, value in row.items() if (own := _meant(key, value)) is not None and key != own}
    if not found:
        return row
    if len(found) > 1:
        raise ValueError(f"no 'image', but pictures under {' and '.join(map(repr, found))}; keep one, as 'image'")
    [(key, own)] = found.items()
    if key.casefold() not in _READ:
        raise ValueError(f"no {own!r}, but {key!r}: {_shown(row[key])}; rename the key to {own!r}")
    return {own: _paths(row[key], key, own), **{name: value for name, value in row.items() if name not in (key, own)}}


def _meant(key: str, value: Any) -> str | None:
    """The key of ours that a key with this value stands for, None where it has nothing to do with pictures."""
    text = next(_texts(value), None)
    if text is None:
        return None
    word = re.sub(r"[\W_]", "", key).casefold()
    if word in _READ:
        return _READ[word]
    if _PICTURE_KEY.fullmatch(word):
        return "image"
    if _VIDEO_KEY.fullmatch(word):
        return "video"
    if not _VAGUE_KEY.fullmatch(word):
        return None
    return "image" if _PICTURE_FILE.fullmatch(text) else "video" if _VIDEO_FILE.fullmatch(text) else None


def _texts(value: Any) -> Iterator[str]:
    """The strings that a value holds at any depth, empty ones left out."""
    if isinstance(value, str):
        yield from filter(None, [value])
    elif isinstance(value, list | Mapping):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _paths(value: Any, key: str, own: str) -> str | list[str]:
    """What stands under `images` or `videos` as paths; a video is one path."""
    entries = value if isinstance(value, list) else [value]
    paths = [entry.get("path") if isinstance(entry, Mapping) and not entry.get("bytes") else entry for entry in entries]
    named = [path for path in paths if isinstance(path, str) and path]
    if len(named) < len(entries):
        wrong = next(entry for entry, path in zip(entries, paths, strict=True) if not isinstance(path, str) or not path)
        cure = "save each picture as a file and write its path" if isinstance(wrong, Mapping) else "write paths"
        raise ValueError(f"field {key!r} holds {_shown(wrong)}; {cure} as {own!r}")
    if own == "video" and len(named) > 1:
        raise ValueError(f"field {key!r} names {len(named)} videos, a row has one; write its path as 'video'")
    return named if isinstance(value, list) and own == "image" else named[0]


def _shown(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
