"""The page of a run while the run goes on: one small server, asked by its page whether anything is new.

The page is drawn when a browser asks for it and something changed. It asks for a fingerprint of the files every three
seconds and exchanges its content when that differs: place, and what is folded out, stay as they are.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import xxhash

from tools.curves.log import LOG_NAME, RECORD_NAME, newest_save
from tools.evaluation.table import find_evaluation
from tools.pages.server import PageHandler, PageServer
from tools.run_report.page import PageOptions, run_page

READ = (RECORD_NAME, "settings.json", "provenance.json", "ledger.json", "skipped.jsonl")


class LivePage(PageServer):
    """Serves the page of one run."""

    def __init__(self, run: Path, options: PageOptions, address: tuple[str, int]) -> None:
        """Take the output folder; errors as of `PageServer`."""
        super().__init__(address, LiveHandler)
        self.folder, self.options = run, options
        self.drawing = threading.Lock()  # two browsers need not draw the same page twice
        self.drawn = ("", "")

    def fingerprint(self) -> str:
        """Changes when a file that the page reads does."""
        evaluation = self.options.evaluation or find_evaluation(self.folder)
        paths = [newest_save(self.folder) / LOG_NAME, *(self.folder / name for name in READ), evaluation]
        found = [path for path in paths if path is not None and path.is_file()]
        stamps = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in found]
        return xxhash.xxh3_64_hexdigest(repr(stamps).encode())

    def page(self) -> str:
        """The page as the files are now; FileNotFoundError, ValueError as of `run_page`."""
        with self.drawing:
            now = self.fingerprint()
            if self.drawn[0] != now:
                self.drawn = (now, run_page(self.folder, self.options, now))
            return self.drawn[1]


class LiveHandler(PageHandler):
    """GET / is the page, GET /fingerprint tells whether it is still the same."""

    server: LivePage
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    )

    def do_GET(self) -> None:
        """Send the page, its fingerprint, or what keeps the page from being drawn yet."""
        path = urlsplit(self.path).path
        try:
            if path == "/":
                self.reply(HTTPStatus.OK, self.server.page(), "text/html; charset=utf-8")
            elif path == "/fingerprint":
                self.reply(HTTPStatus.OK, self.server.fingerprint(), "text/plain; charset=utf-8")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)
        except (FileNotFoundError, ValueError) as error:
            self.reply(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n", "text/plain; charset=utf-8")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the page asks every few seconds."""


def serve_run(run: Path, options: PageOptions, address: tuple[str, int]) -> None:
    """Serve the page of a run until interrupted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the address is not to be had.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such folder; name the output folder of a training")
    with LivePage(run, options, address) as server:
        server.run()
