"""The server of the demo: the page, and the answers of all contenders to one question at a time."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.asking.contenders import Answering
from tools.asking.examples import NONE, Examples, views
from tools.asking.showing import show
from tools.asking.turns import MAX_IMAGES, AskedTurn, parse_request, read_turns
from tools.pages.page import render
from tools.pages.server import PageHandler, PageServer
from tools.reasoning_data_pipeline.prompts.wording import AS_TYPED, VERSIONS

TEMPLATE = Path(__file__).with_name("asking.html")
POLICY = "default-src 'none'; connect-src 'self'; img-src blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
BROKEN_UPLOAD = "the upload ended early"

TellOf = Callable[[int, str], None]
"""Takes the index of a contender and a further piece of its answer."""


class TooLargeError(ValueError):
    """A body that is not read."""


class DemoServer(PageServer):
    """Serves the page, and the answers of all contenders to one question at a time."""

    def __init__(
        self,
        address: tuple[str, int],
        contenders: Sequence[Answering],
        settings: dict[str, Any],
        most_bytes: int,
        *,
        version: str = AS_TYPED,
        examples: Examples = NONE,
    ) -> None:
        """Bind.

        Args:
            address: host and port, port 0 takes a free one.
            contenders: what answers.
            settings: keywords of `generate`.
            most_bytes: of a request.
            version: how the page asks at first.
            examples: that it offers.
        """
        super().__init__(address, Handler)
        self.contenders, self.settings, self.most_bytes = contenders, settings, most_bytes
        self.examples = examples.listed
        self.pictures = {
            f"/examples/{number}/{index}": Path(image)
            for number, example in enumerate(examples.listed)
            for index, image in enumerate(example.asked.images)
        }
        self.page = render(
            TEMPLATE,
            names=[contender.name for contender in contenders],
            follows=all(contender.takes_history for contender in contenders),
            versions=(AS_TYPED, *VERSIONS),
            first=version,
            most_images=MAX_IMAGES,
            examples=views(examples.listed),
            told=examples.told,
        )
        self.busy = threading.Lock()  # two questions at once would need the memory of two

    def answers(self, turns: Sequence[AskedTurn], tell: TellOf = lambda index, text: None) -> list[str]:
        """The answer of each contender to the last of the turns; `tell` takes their pieces.

        Raises:
            ValueError: one cannot answer it.
        """
        with self.busy:
            return [self._answer(index, turns, tell) for index in range(len(self.contenders))]

    def verdicts(self, request: dict[str, Any], turns: Sequence[AskedTurn], answers: Sequence[str]) -> list[str]:
        """The outcome of each answer where the question is that of the example the request names; else []."""
        number = str(request.get("example"))
        if len(turns) > 1 or number not in map(str, range(len(self.examples))):
            return []
        return self.examples[int(number)].verdicts(turns[0], answers)

    def _answer(self, index: int, turns: Sequence[AskedTurn], tell: TellOf) -> str:
        history = [(turn.text, turn.answers[index]) for turn in turns[:-1]]
        return self.contenders[index].answer(turns, history, self.settings, lambda text: tell(index, text))


class Handler(PageHandler):
    """GET / is the page, /examples/I/J a picture; POST /answers of a conversation, see `turns`, streams JSON lines.

    A line is a piece of an answer, {"index": of the checkpoint, "piece"}; the last one has all `answers`, and how they
    are shown, or a `problem`. What cannot be asked at all is refused with a `problem`.
    """

    server: DemoServer
    policy = POLICY

    def do_GET(self) -> None:
        """Send the page, or a picture of an example."""
        path = urlsplit(self.path).path
        picture = self.server.pictures.get(path)
        if path == "/":
            self.reply(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif picture is not None and picture.is_file():
            content = picture.read_bytes()
            self.start_reply(HTTPStatus.OK, "application/octet-stream", {"Content-Length": str(len(content))})
            self.wfile.write(content)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Send the answers, or why there are none."""
        if urlsplit(self.path).path != "/answers":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            request = parse_request(self.receive())
            turns = read_turns(request, len(self.server.contenders))
        except TooLargeError as error:
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        except ValueError as error:  # an ImageError is one
            self.refuse(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self.start_reply(HTTPStatus.OK, "application/jsonl", {})
            self.stream(request, turns)

    def receive(self) -> bytes:
        """The whole body.

        Raises:
            TooLargeError: it is more than is taken, or does not say; nothing of it is read.
            ValueError: it ended early.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > self.server.most_bytes:
            most = self.server.most_bytes / 1e6
            found = length or "an unknown number of"
            raise TooLargeError(f"the conversation and its images have {found} bytes; at most {most:g} MB are taken")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise ValueError(BROKEN_UPLOAD)
        return data

    def stream(self, request: dict[str, Any], turns: Sequence[AskedTurn]) -> None:
        """Send the pieces of the answers as they come, then all of them, or why there are none."""
        with contextlib.suppress(ConnectionError):  # who asked is gone: nobody waits for the rest
            try:
                answers = self.server.answers(turns, lambda index, text: self.send({"index": index, "piece": text}))
                verdicts = self.server.verdicts(request, turns, answers)
                self.send({"answers": answers, "verdicts": verdicts, **show(answers)})
            except ValueError as error:
                self.send({"problem": str(error)})

    def send(self, line: dict[str, Any]) -> None:
        """Send one JSON line."""
        self.wfile.write(json.dumps(line).encode() + b"\n")

    def refuse(self, status: HTTPStatus, problem: str) -> None:
        """Send a problem as JSON, and close: what was not read must not be taken for the next request."""
        self.close_connection = True
        self.reply(status, json.dumps({"problem": problem}), "application/json")
