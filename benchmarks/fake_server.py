"""An OpenAI-compatible server without a model, for tests: it reads prompts as training does, or not as it is told.

    server = FakeServer(checkpoint)          # serves on a free port of this machine, in threads
    server.faults.append(Fault("status", 500))    # what happens to the next request for answers, and then no more

Answers are those of the scripted engine: the seed alone decides each. The ids of prompts and answers come back with
them, as from vLLM. `dialect` says how it takes images: as one of `server_requests.DIALECTS`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from internvl_chat.data.images import Tiling, count_tiles
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_config, load_tokenizer
from internvl_chat.records.rows import RecordError, Source
from tools.reasoning_data_pipeline.engines.protocol import Request
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine
from tools.reasoning_data_pipeline.engines.server_requests import DIALECTS, Dialect

IMAGE = "<image>"


@dataclass(frozen=True)
class Fault:
    """What happens to a request for answers.

    Attributes:
        kind: "status", "cut" (the connection ends in the middle), "garbage" (no JSON), "drip" (a byte now and then),
            "fewer" (an answer is missing), "unstopped" (tokens go on behind the end token).
        status: of "status".
        headers: of "status".
    """

    kind: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Habits:
    """How the server differs from an honest one.

    Attributes:
        system: says this in the system's turn, whatever it is told; None for what it is told.
        more_tiles: tiles that each image gets too many.
        ignores_limit: gives each image as many tiles as fit.
        returns_ids: whether ids come back.
        seeds: "each" (sample i has the seed + i), "same" (all have the seed), "none" (the seed is ignored).
        stops: whether it ends an answer at the end token.
        strips: whether it strips an assistant prefix.
        takes_bias: whether it knows logit_bias.
        delay: seconds for an answer.
        names: of models that it serves.
    """

    system: str | None = None
    more_tiles: int = 0
    ignores_limit: bool = False
    returns_ids: bool = True
    seeds: str = "each"
    stops: bool = True
    strips: bool = False
    takes_bias: bool = True
    delay: float = 0.0
    names: tuple[str, ...] = ()


class FakeServer(ThreadingHTTPServer):
    """Serves a checkpoint's tokenizer and configuration; `asked` keeps the bodies of all requests for answers."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(
        self, checkpoint: Path, *, habits: Habits | None = None, dialect: Dialect = DIALECTS[0], port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.checkpoint, self.habits, self.dialect = checkpoint, habits or Habits(), dialect
        self.faults: deque[Fault] = deque()
        self.asked: list[dict[str, Any]] = []
        config = load_config(checkpoint)
        self.tokenizer = load_tokenizer(checkpoint)
        self.tiling = Tiling(config.force_image_size or config.vision_config.image_size, use_thumbnail=True)
        self._row_settings = config.template, config.num_image_token
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.calls = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> FakeServer:
        """Serve in a thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Serve no more: connections are refused from now on."""
        self.shutdown()
        self.server_close()

    def prompt_ids(self, body: dict[str, Any]) -> list[int]:
        """Ids of a conversation, in the server's way."""
        turns = {message["role"]: message["content"] for message in body["messages"]}
        text, pictures = self._question(turns["user"])
        limits = [picture.get(self.dialect.tile_limit) for picture in pictures]
        if not self.dialect.beside_url:
            limits = [(body.get("mm_processor_kwargs") or {}).get(self.dialect.tile_limit)] * len(pictures)
        counts = [self._tiles(picture["url"], limit) for picture, limit in zip(pictures, limits, strict=True)]
        system = turns.get("system", "") if self.habits.system is None else self.habits.system
        rows = RowTokenizer(self.tokenizer, *self._row_settings, system)
        prefix = turns.get("assistant", "")
        prefix = prefix.strip() if self.habits.strips else prefix
        row = rows.tokenize(text, [prefix] if prefix else [], len(pictures), Source("fake", 1))
        return row.prompt_ids(counts) + (row.answers[0][:-1] if prefix else rows.answer_start)

    def _question(self, content: str | list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
        """The text with `<image>` in the places that this dialect has, and the pictures."""
        if isinstance(content, str):
            return content, []
        pictures = [part["image_url"] for part in content if part["type"] == "image_url"]
        texts = [part["text"] for part in content if part["type"] == "text"]
        if self.dialect.placeholder is not None:
            text = "\n".join(texts)
            missing = len(pictures) - text.count(self.dialect.placeholder)
            return f"{IMAGE}\n" * missing + text.replace(self.dialect.placeholder, IMAGE), pictures
        mark = f"{IMAGE}\n" if self.dialect.ends_line else IMAGE
        return "".join(part["text"] if part["type"] == "text" else mark for part in content), pictures

    def _tiles(self, url: str, limit: int | None) -> int:
        parts = urlsplit(url)
        data = Path(parts.path).read_bytes() if parts.scheme == "file" else base64.b64decode(url.partition(",")[2])
        size = Image.open(io.BytesIO(data)).size
        most = 12 if self.habits.ignores_limit or limit is None else limit
        return count_tiles(self.tiling.plan([size], max_num=most)[0], True) + self.habits.more_tiles

    def choices(self, body: dict[str, Any], ids: list[int]) -> list[dict[str, Any]]:
        """The answers to a request."""
        steps = {"each": 1, "same": 0, "none": 1}[self.habits.seeds]
        self.calls += 1
        first = body.get("seed", 0) + (4 * self.calls if self.habits.seeds == "none" else 0)
        return [self._choice(body, ids, index, first + steps * index) for index in range(body.get("n") or 1)]

    def _choice(self, body: dict[str, Any], ids: list[int], index: int, seed: int) -> dict[str, Any]:
        turns = {message["role"]: message["content"] for message in body["messages"]}
        text, _ = self._question(turns["user"])
        said = ScriptedEngine().text(Request("fake", text, {}, prefix=turns.get("assistant", "")), seed)
        tokens = self.tokenizer.encode(said, add_special_tokens=False)
        if body.get("logit_bias") and self.habits.takes_bias:
            [[forced, _]] = body["logit_bias"].items()
            tokens = [] if int(forced) == self.end and self.habits.stops else [int(forced)] * 9
        cut = len(tokens) >= body["max_tokens"]
        tokens = tokens[: body["max_tokens"]] if cut else [*tokens, self.end]
        choice = {
            "index": index,
            "message": {"role": "assistant", "content": self.tokenizer.decode(tokens, skip_special_tokens=True)},
            "finish_reason": "length" if cut else "stop",
        }
        if self.habits.returns_ids:
            choice["token_ids"] = tokens
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"logprob": -1 / (1 + token)} for token in tokens]}
        return choice


class Handler(BaseHTTPRequestHandler):
    """GET /v1/models and POST /v1/chat/completions."""

    server: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The models."""
        names = self.server.habits.names or (str(self.server.checkpoint),)
        self.reply(200, {"data": [{"id": name, "root": name, "max_model_len": 2048} for name in names]})

    def do_POST(self) -> None:
        """The answers, or what was told to happen."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        time.sleep(self.server.habits.delay)
        fault = self.server.faults.popleft() if self.server.faults else None
        if fault is not None and fault.kind == "status":
            self.reply(fault.status, {"error": {"message": f"told to say {fault.status}"}}, fault.headers)
            return
        try:
            ids = self.server.prompt_ids(body)
        except RecordError as error:
            self.reply(400, {"error": {"message": error.reason}})
            return
        found = {"choices": self.server.choices(body, ids), "usage": {"prompt_tokens": len(ids)}}
        if self.server.habits.returns_ids:
            found["prompt_token_ids"] = ids
        if fault is not None:
            self.spoil(fault, found)
        else:
            self.reply(200, found)

    def spoil(self, fault: Fault, found: dict[str, Any]) -> None:
        """A reply that goes wrong."""
        if fault.kind == "fewer":
            self.reply(200, {**found, "choices": found["choices"][1:]})
        elif fault.kind == "unstopped":
            found["choices"][0]["token_ids"] += [5, 6]
            self.reply(200, found)
        elif fault.kind == "garbage":
            self.send(200, b"<html>" + re.sub(rb"\s", b"", json.dumps(found).encode()), {})
        elif fault.kind == "cut":
            self.send(200, json.dumps(found).encode(), {}, length=10**6)
        else:
            self.drip(json.dumps(found).encode())

    def drip(self, content: bytes) -> None:
        """A byte now and then, for ten seconds."""
        self.send(200, b"", {}, length=len(content))
        for byte in content[:100]:
            self.wfile.write(bytes([byte]))
            time.sleep(0.1)

    def reply(self, status: int, found: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        self.send(status, json.dumps(found).encode(), headers or {})

    def send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None) -> None:
        """Send bytes, and close the connection where the length is a lie."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = length is not None
