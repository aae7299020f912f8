"""The server of the demo: the page, and the answers of all contenders to one question at a time."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from internvl_chat.data.images import ImageError, load_image
from internvl_chat.records.rows import Source
from tools.asking.contenders import Answering
from tools.pages.page import Segments, mark_differences, render
from tools.pages.server import PageHandler, PageServer
from tools.reasoning_data_pipeline.prompts.wording import AS_TYPED, VERSIONS, ask

TEMPLATE = Path(__file__).with_name("asking.html")
POLICY = "default-src 'none'; connect-src 'self'; img-src blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
BROKEN_UPLOAD = "the upload ended early"


class DemoServer(PageServer):
    """Serves the page, and the answers of all contenders to one question at a time."""

    def __init__(
        self,
        address: tuple[str, int],
        contenders: Sequence[Answering],
        settings: dict[str, Any],
        most_bytes: int,
        version: str = AS_TYPED,
    ) -> None:
        """Take what answers, the keywords of `generate`, the most bytes of an image, how the page asks at first."""
        super().__init__(address, Handler)
        self.contenders, self.settings, self.most_bytes = contenders, settings, most_bytes
        names = [contender.name for contender in contenders]
        self.page = render(TEMPLATE, names=names, versions=(AS_TYPED, *VERSIONS), first=version)
        self.busy = threading.Lock()  # two questions at once would need the memory of two

    def answers(self, data: bytes, question: str, version: str = AS_TYPED) -> list[str]:
        """The answer of each contender to a question, put in the words of a prompt version.

        Raises:
            ImageError: the data are no image that can be read.
            ValueError: the question and the image do not go together.
        """
        if not question.strip():
            raise ValueError("the question is empty")
        if version not in (AS_TYPED, *VERSIONS):
            raise ValueError(f"{version!r} is no prompt version; there are {', '.join(VERSIONS)}")
        image = read_image(data) if data else None
        if version != AS_TYPED:
            question = ask(question, int(image is not None), version=version, where=Source("the question", 1))
        with self.busy:
            return [contender.answer(image, question, self.settings) for contender in self.contenders]


class Handler(PageHandler):
    """GET / is the page; POST /answers?question=... with the bytes of an image is JSON: `answers`, or `problem`."""

    server: DemoServer
    policy = POLICY

    def do_GET(self) -> None:
        """Send the page."""
        if urlsplit(self.path).path == "/":
            self.reply(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Send the answers, or why there are none."""
        address = urlsplit(self.path)
        if address.path != "/answers":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > self.server.most_bytes:
            most = self.server.most_bytes / 1e6
            problem = f"the image has {length or 'an unknown number of'} bytes; at most {most:g} MB are taken"
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
            return
        data = self.rfile.read(int(length))
        try:
            if len(data) < int(length):
                raise ValueError(BROKEN_UPLOAD)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            answers = self.server.answers(data, query.get("question", ""), query.get("version", AS_TYPED))
        except ValueError as error:  # an ImageError is one
            self.refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self.reply(HTTPStatus.OK, json.dumps({"answers": answers, "marked": marked(answers)}), "application/json")

    def refuse(self, status: HTTPStatus, problem: str) -> None:
        """Send a problem as JSON, and close: what was not read must not be taken for the next request."""
        self.close_connection = True
        self.reply(status, json.dumps({"problem": problem}), "application/json")


def marked(answers: Sequence[str]) -> list[Segments]:
    """The answers as (text, whether the other lacks it); of other than two nothing is marked."""
    if len(answers) == 2:
        return list(mark_differences(*answers))
    return [[(answer, False)] for answer in answers]


def read_image(data: bytes) -> Image.Image:
    """Decode an uploaded image within the bounds of training.

    Raises:
        ImageError: says why it cannot be, without the path it was kept at.
    """
    with tempfile.NamedTemporaryFile(prefix="upload") as file:
        file.write(data)
        file.flush()
        try:
            return load_image(file.name)
        except ImageError as error:
            raise ImageError(str(error).replace(file.name, "the file"), error.fault) from error
