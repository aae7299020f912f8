"""Ask several checkpoints the same question about an image and see the answers side by side, in a browser.

    python tools/demo.py --checkpoints ckpt/InternVL2_5-8B work_dirs/mpo
    python tools/demo.py --checkpoints ckpt/tiny-base work_dirs/quickstart/checkpoint --port 8000

The page asks step by step, in the words of --prompt-version that the pipelines use and MPO trains on, or as typed;
with two checkpoints it marks what one answer has and the other lacks. Answers come from `model.chat`, greedy unless a
temperature is given, or from an engine of the pipelines: `--engine vllm`, or `--engine server --server URL URL`, one
for each checkpoint. The page is served on this machine only, to requests whose Host header names it; from elsewhere,
`ssh -L 7860:127.0.0.1:7860 HOST` brings it. An image is opened within the bounds of training, and an upload of more
than --max-megabytes is refused before it is read.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.data.images import ImageError, Tiling, load_image
from internvl_chat.model import InternVLChatModel, load_config, load_model, load_tokenizer
from internvl_chat.records.rows import Source
from internvl_chat.run.entry import Parser, at_least, enter
from tools.pages.page import Segments, mark_differences, render
from tools.pages.server import PageHandler, PageServer
from tools.reasoning_data_pipeline.engines.opening import ENGINES, open_engine
from tools.reasoning_data_pipeline.engines.protocol import Engine, EngineOptions, Failure, Request, SamplingSettings
from tools.reasoning_data_pipeline.engines.server_arguments import add_servers, server_options
from tools.reasoning_data_pipeline.prompts.wording import VERSIONS, ask

TEMPLATE = Path(__file__).with_suffix(".html")
POLICY = "default-src 'none'; connect-src 'self'; img-src blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
AS_TYPED = "as typed"
BROKEN_UPLOAD = "the upload ended early"


@dataclass(frozen=True)
class Contender:
    """A checkpoint that answers."""

    name: str
    model: InternVLChatModel
    tokenizer: PreTrainedTokenizerBase
    tiling: Tiling

    def answer(self, image: Image.Image | None, question: str, settings: dict[str, Any]) -> str:
        """Answer a question, about an image if there is one; `settings` are keywords of `generate`."""
        tiles = None
        if image is not None:
            [grid] = self.tiling.plan([image.size])
            tiles = torch.from_numpy(self.tiling.cut(image, grid))
        return str(self.model.chat(self.tokenizer, tiles, question, settings))


@dataclass(frozen=True)
class EngineContender:
    """A checkpoint that answers through an engine of the pipelines, as it samples there."""

    name: str
    engine: Engine
    max_tiles: int

    def answer(self, image: Image.Image | None, question: str, settings: dict[str, Any]) -> str:
        """Answer a question, about an image if there is one; the engine was opened with its settings.

        Raises:
            ValueError: the engine cannot answer it.
        """
        with tempfile.TemporaryDirectory() as folder:
            images: tuple[str, ...] = ()
            if image is not None:
                images = (f"{folder}/upload.png",)
                image.save(images[0])
            request = Request("the question", question, {0: secrets.randbits(62)}, images, self.max_tiles)
            [result] = self.engine.generate([request])
        if isinstance(result, Failure):
            raise ValueError(result.reason)
        return result.text.strip()


Answering = Contender | EngineContender


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


def load_contender(path: str, device: str) -> Contender:
    """Load a checkpoint of either layout, by folder or hub name; in bfloat16 on a GPU, in float32 on a CPU."""
    source = local_checkpoint(path)
    config = load_config(source)
    model = load_model(source, dtype=torch.float32 if device == "cpu" else torch.bfloat16).to(device)
    tiling = Tiling(
        image_size=config.force_image_size or config.vision_config.image_size,
        min_num=config.min_dynamic_patch,
        max_num=config.max_dynamic_patch,
        dynamic=config.dynamic_image_size,
        use_thumbnail=config.use_thumbnail,
        pad2square=config.pad2square,
    )
    return Contender(path, model, load_tokenizer(source), tiling)


def open_contender(path: str, args: argparse.Namespace) -> EngineContender:
    """A checkpoint behind the engine that the command line names."""
    sampling = SamplingSettings(args.temperature, max_new_tokens=args.max_new_tokens)
    engine = open_engine(args.engine, EngineOptions(path, sampling, server=server_options(args)))
    return EngineContender(path, engine, load_config(path).max_dynamic_patch)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", required=True, help="folders or hub names, of either layout")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: %(default)s)")
    parser.add_argument("--port", type=at_least(0), default=7860, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--max-new-tokens", type=at_least(1), default=1024, help="of an answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--engine", choices=("chat", *ENGINES), default="chat", help="(default: %(default)s)")
    parser.add_argument(
        "--prompt-version",
        choices=(AS_TYPED, *VERSIONS),
        default="en",
        help="words that the page puts a question in at first (default: %(default)s)",
    )
    add_servers(parser)
    parser.add_argument("--max-megabytes", type=float, default=20, help="of an image (default: %(default)s)")
    return parser.parse_args(argv)


def build_server(args: argparse.Namespace) -> DemoServer:
    """The server, bound but not yet serving.

    Raises:
        FileNotFoundError, ValueError: a checkpoint cannot be loaded, or address or device are not to be had.
    """
    settings: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.temperature > 0}
    if args.temperature > 0:
        settings["temperature"] = args.temperature
    if args.device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: no GPU is seen here; leave the flag out, or take cpu")
    contenders: list[Answering] = [
        load_contender(path, args.device) if args.engine == "chat" else open_contender(path, args)
        for path in args.checkpoints
    ]
    return DemoServer((args.host, args.port), contenders, settings, int(args.max_megabytes * 1e6), args.prompt_version)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    with build_server(parse_arguments(argv)) as server:
        server.run()


if __name__ == "__main__":
    enter(main)
