"""Image paths that lead elsewhere, or to what is no file."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .case import Case, Outcome, Place, all_of, by_entry, link, put_row

ROOTED: dict[str, Outcome] = {
    **dict.fromkeys(("train", "validate", "view", "correctness"), "skipped"),
    "evaluate": "refused",
}
URL = "URLs are not read; download the image"
OUT = "leads out of its root|no such image; tried|symlink of a single file out of its root"
ABSENT = "no such file|not a regular file|no such image|NUL character"


def cases() -> Iterator[Case]:
    """All cases of paths."""
    for path in ("http://127.0.0.1:9/a.png", "https://example.com/a.png", "ftp://host/a.png", "s3://bucket/a.png",
                 "file:///etc/passwd", "data:image/png;base64,iVBORw0KGgo=", "gopher://127.0.0.1:9/_x"):  # fmt: skip
        yield from by_entry(ROOTED, "path", path, put_row({"image": path}), URL)
    outside = (
        "../../outside/secret.png", "../images/../../outside/secret.png", "{folder}/outside/secret.png", "/etc/passwd",
        "/dev/zero", "/dev/stdin", "/proc/self/environ", "../../../../../../../../etc/passwd", "..", "../",
        "./.././../outside/secret.png", "//etc/passwd", "../rows.jsonl", "../../ckpt/config.json",
    )  # fmt: skip
    for path in outside:
        yield from by_entry(ROOTED, "path", path, _row_of(path), OUT)
    absent = (
        "absent.png", "clean.png/x.png", ".", "folder", "folder/", "*.png", "cle?n.png", "~/clean.png",
        "$HOME/clean.png", r"C:\clean.png", r"\\server\share\a.png", "%2e%2e/outside/secret.png", "|touch canary",
        "$(touch canary)", "`touch canary`", "; touch canary", "clean.png\0.txt", "clean.png\n", " clean.png",
        "CLEAN.PNG",
        "\x1b[2Jclean.png", "\u202egnp.naelc", "x" * 300, "x" * 5000, "a/" * 3000 + "b.png", "\ufeffclean.png",
        "cle\u0301an.png", "....//clean.png", "<img>", "{folder}", "%s%s%n", "clean.png#frag", "clean.png?x=1",
    )  # fmt: skip
    for path in absent:
        place = all_of(_make_folder, put_row({"image": path}))
        yield from by_entry(ROOTED, "path", f"{path[:40]!r} of {len(path)}", place, f"{ABSENT}|{OUT}")
    yield from _special_files()
    yield from _valid()


def _row_of(path: str) -> Place:
    return lambda folder: put_row({"image": path.format(folder=folder)})(folder)


def _make_folder(folder: Path) -> None:
    (folder / "data" / "images" / "folder").mkdir()


def _special_files() -> Iterator[Case]:
    images = "data/images"
    named: dict[str, Place] = {
        "FIFO": lambda folder: os.mkfifo(folder / images / "x.png"),
        "socket": _make_socket,
        "link of a file outside": link(f"{images}/x.png", "{folder}/outside/secret.png"),
        "relative link of a file outside": link(f"{images}/x.png", "../../outside/secret.png"),
        "link of a device": link(f"{images}/x.png", "/dev/zero"),
        "link of a link outside": all_of(
            link(f"{images}/y.png", "{folder}/outside/secret.png"), link(f"{images}/x.png", "y.png")
        ),
        "link of itself": link(f"{images}/x.png", "x.png"),
        "link of nothing": link(f"{images}/x.png", "nothing.png"),
        "link of a folder": link(f"{images}/x.png", "."),
    }
    for name, place in named.items():
        yield from by_entry(ROOTED, "path", name, all_of(place, put_row({"image": "x.png"})), f"{OUT}|{ABSENT}")


def _make_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)
        os.chdir(folder / "data" / "images")  # a socket's path may only be short
        server.bind("x.png")
        os.fchdir(here)
        os.close(here)


def _valid() -> Iterator[Case]:
    used: dict[str, Outcome] = dict.fromkeys(ROOTED, "used")
    clean = "data/images/clean.png"
    named: dict[str, tuple[str, Place]] = {
        "letters of many scripts": ("图 é 🖼.png", _copy(clean, "data/images/图 é 🖼.png")),
        "dots inside the root": ("./folder/../clean.png", _make_folder),
        "a slash behind": ("clean.png/", _make_folder),
        "a link inside the root": ("y.png", link("data/images/y.png", "clean.png")),
        "a linked folder": ("linked/secret.png", link("data/images/linked", "{folder}/outside")),
        "a hard link": ("y.png", lambda folder: os.link(folder / clean, folder / "data/images/y.png")),
    }
    for name, (path, place) in named.items():
        yield from by_entry(used, "path", name, all_of(place, put_row({"image": path})), "")


def _copy(source: str, target: str) -> Place:
    return lambda folder: (folder / target).write_bytes((folder / source).read_bytes())
