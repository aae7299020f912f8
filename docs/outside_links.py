"""Hook of mkdocs: what pages link to outside of docs/ becomes part of the site, so that one Markdown serves both.

On a code host `[result](../benchmarks/results/x.json)` and `[README](../README.md)` lead to files of the repository.
The site has these files too, under `repository/`: Markdown as pages, all else as it is. A link to a folder leads to its
README. mkdocs itself then says which links lead nowhere.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DOCS, OUTSIDE = "docs/", "repository/"
FENCED = re.compile(r"^```.*?^```", re.S | re.M)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def place_in_site(path: str) -> str:
    """Where the site has a file of the repository, both from their roots."""
    return path.removeprefix(DOCS) if path.startswith(DOCS) else OUTSIDE + path


def place_in_repository(path: str) -> str:
    """The reverse."""
    return path.removeprefix(OUTSIDE) if path.startswith(OUTSIDE) else DOCS + path


def target(page: str, link: str) -> str | None:
    """The file of the repository that a link in a page of it means; None for addresses, anchors, what is not there."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:|/", path):
        return None
    meant = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    if (ROOT / meant).is_dir():
        meant = posixpath.join(meant, "README.md")
    return meant if not meant.startswith("..") and (ROOT / meant).is_file() else None


def links(page: str) -> Iterator[str]:
    """Files of the repository that a page of it links to."""
    for _, link, _ in LINK.findall(FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))):
        if meant := target(page, link):
            yield meant


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside of docs/ that its pages link to, and theirs."""
    waiting = [place_in_repository(file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        for path in sorted(set(links(waiting.pop())) - seen):
            seen.add(path)
            if not path.startswith(DOCS):
                files.append(File.generated(config, place_in_site(path), abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page to files of the repository into links to their places in the site."""
    here = place_in_repository(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        meant = target(here, match[2])
        if meant is None:
            return match[0]
        start = posixpath.dirname(page.file.src_uri) or "."
        anchor = "".join(match[2].partition("#")[1:])
        return f"{match[1]}{os.path.relpath(place_in_site(meant), start)}{anchor}{match[3]}"

    blocks = FENCED.findall(markdown)
    prose = [LINK.sub(turned, text) for text in FENCED.split(markdown)]
    return "".join(piece for pair in zip(prose, [*blocks, ""], strict=True) for piece in pair)
