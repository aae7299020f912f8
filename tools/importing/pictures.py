"""Pictures of imported rows: bytes in a table, files below a root, data: URLs; each saved once, under its hash.

A file is linked where the disk has hard links, and takes no room twice; else it is copied. Bytes stay as they are.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from internvl_chat.data.images import ImageError, open_image, resolve_image
from internvl_chat.records.durable import write_atomically
from internvl_chat.records.rows import RecordError, Source, shown


class PictureStore:
    """Saves the pictures of one file of rows below `folder`."""

    def __init__(self, folder: Path, root: Path | None, *, follow_symlinks: bool = False) -> None:
        """Take where pictures go.

        Args:
            folder: made where it is needed.
            root: folder of pictures that rows name by a path; None where rows hold their pictures.
            follow_symlinks: as of `resolve_image`.
        """
        self.folder, self.root, self.follow_symlinks = folder, root, follow_symlinks
        self._saved: dict[str, str] = {}  # path as a row writes it -> path below the folder

    def save(self, picture: Any, where: Source) -> str:
        """Save what a row has for a picture: its bytes, a path, or {bytes, path}; its path below the folder.

        Raises:
            RecordError: it is something else, or a path and there is no root.
            ImageError: it is no picture, or the file is not there or not below the root; names it.
        """
        held = (picture.get("bytes") or picture.get("path")) if isinstance(picture, Mapping) else picture
        if isinstance(held, bytes):
            return save_image(held, self.folder)
        if isinstance(held, str) and held.startswith("data:"):
            return save_image(_decoded(held), self.folder)
        if isinstance(held, str) and held and self.root is not None:
            if held not in self._saved:
                self._saved[held] = self._save_file(held, self.root)
            return self._saved[held]
        path = ", or a path below --root" if isinstance(held, str) else ""
        raise RecordError(*where, f"a row must hold the bytes of a picture{path}, not {shown(held)}")

    def _save_file(self, path: str, root: Path) -> str:
        try:
            found = resolve_image(str(root), path, allow_file_symlinks=self.follow_symlinks)
        except ImageError as error:
            raise ImageError(f"{error}; --root names the folder of the pictures", error.fault) from error
        open_image(found).close()  # an error names this file, not the copy
        return save_image(Path(found).read_bytes(), self.folder, source=found)


def _decoded(url: str) -> bytes:
    """The bytes in a data: URL of base64."""
    head, _, content = url.partition(",")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ImageError(f"{shown(head)}: not base64 ({error})") from error


def save_image(content: bytes, folder: Path, source: str | None = None) -> str:
    """Save a picture under its hash, as a link to the file `source` where that is possible; its path below `folder`.

    Raises:
        ImageError: it is none.
    """
    digest = xxhash.xxh3_128_hexdigest(content)
    arrived = folder / digest[:2] / digest
    if source is None or not _linked(source, arrived):
        write_atomically(arrived, [content])
    try:
        with open_image(str(arrived)) as image:
            path = arrived.with_suffix(f".{(image.format or 'image').lower()}")
        arrived.replace(path)
    finally:
        arrived.unlink(missing_ok=True)
    return path.relative_to(folder).as_posix()


def _linked(source: str, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one without hard links
        return False
    return True
