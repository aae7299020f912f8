"""Before a server answers: does it read and end prompts as training does? A difference is refused, with both numbers.

Asked are a text prompt (the chat template), one with an assistant prefix, one of a wide picture at a tile limit of 1
and of 3 (image tokens, tile limit, the picture's place in the text), an answer that the end token is forced upon, and
two samples at once, which must be those of two requests with their seeds. What has no standard, how images and tile
limits are put, is found by trying: the first dialect whose pictures have training's tokens is the server's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from tools.reasoning_data_pipeline.engines.inputs import Draw, PromptReader
from tools.reasoning_data_pipeline.engines.protocol import Request, SamplingSettings
from tools.reasoning_data_pipeline.engines.server_client import BrokenError, RefusedError, Server
from tools.reasoning_data_pipeline.engines.server_requests import (
    DIALECTS,
    Asking,
    Dialect,
    MisreadError,
    WrittenPrompt,
    check_prompt,
)

logger = logging.getLogger(__name__)

CURE = "serve the same checkpoint with its own chat template (shell/serve.sh does), see docs/clients.md"
LIMITS = (1, 3)  # tiles of the picture that is asked about
CHATTY = SamplingSettings(temperature=2.0, top_k=0, max_new_tokens=16)  # two samples are hardly ever the same
ONE = Draw((0,), 1)
FORCED = 100.0  # logit bias that leaves no other token a chance


class UnfitServerError(ValueError):
    """A server that would answer other prompts than training has, or in another way."""


class OtherModelError(UnfitServerError):
    """A server of other models."""


@dataclass(frozen=True)
class Manner:
    """How a server is asked.

    Attributes:
        model: its name for the checkpoint.
        dialect: of questions with images.
        draws_many: whether several samples can be asked for at once, with the seeds that `Draw` says.
        session_len: tokens of prompt and answer together that it takes, None where it does not say.
    """

    model: str
    dialect: Dialect
    draws_many: bool
    session_len: int | None


def check_server(server: Server, asking: Asking, reader: PromptReader) -> Manner:
    """Ask the server what it is, and how it reads.

    Raises:
        UnfitServerError: it serves other models, or differs from training.
        ServerError: it does not answer.
    """
    model, session_len = find_model(server, asking.options.checkpoint, asking.options.server.model)
    check = _Check(server, asking, reader, model)
    check.reading()
    dialect = check.dialect()
    check.stop_token()
    return Manner(model, dialect, check.draws_many(), session_len)


def find_model(server: Server, checkpoint: str, wanted: str) -> tuple[str, int | None]:
    """The server's name for the checkpoint, and how many tokens it takes.

    A served model is the checkpoint where its name, or the path it was loaded from, is the same or ends in the same two
    parts.

    Raises:
        OtherModelError: none of its models is.
    """
    models = server.get("models").get("data")
    models = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    for model in models:
        names = {str(model.get("id")), str(model.get("root"))}
        if wanted in names or (not wanted and any(_same_path(name, checkpoint) for name in names)):
            length = model.get("max_model_len")
            return str(model["id"]), length if isinstance(length, int) else None
    served = ", ".join(f"{model.get('id')} (from {model.get('root')})" for model in models) or "nothing"
    cure = "if it is the same under another name, give --server-model"
    raise OtherModelError(f"{server} serves {served}, not {wanted or checkpoint}; {cure}")


def _same_path(one: str, other: str) -> bool:
    if one == other:
        return True
    parts = [Path(path).resolve().parts[-2:] if Path(path).exists() else Path(path).parts[-2:] for path in (one, other)]
    return len(parts[0]) == 2 and parts[0] == parts[1]


@dataclass(frozen=True)
class _Check:
    """The questions to one server."""

    server: Server
    asking: Asking
    reader: PromptReader
    model: str

    def ask(self, question: WrittenPrompt, draw: Draw = ONE, dialect: Dialect = DIALECTS[0], **more: Any) -> Any:
        """The reply; it must have read what training has."""
        body = self.asking.body(question, draw, dialect, self.model, **more)
        reply = self.server.post("chat/completions", body)
        check_prompt(reply, question.ids)
        return reply

    def question(self, text: str, images: tuple[str, ...] = (), max_tiles: int = 1, prefix: str = "") -> WrittenPrompt:
        """A question as a pipeline would put it."""
        request = Request("the check of a server", text, {0: 1}, images, max_tiles, prefix)
        return WrittenPrompt.of(self.reader.read(request), "")

    def reading(self) -> None:
        """A text prompt, without and with a prefix."""
        prompts = {
            "a text prompt: another chat template": self.question("How many apples are 2 + 2 apples?"),
            "an assistant prefix": self.question("Count to five.", prefix="One, two,\n\nthree "),
        }
        for name, question in prompts.items():
            try:
                self.ask(question, max_tokens=1)
            except MisreadError as error:
                raise UnfitServerError(f"{self.server} reads {name}: {error}; {CURE}") from error

    def dialect(self) -> Dialect:
        """The first dialect in which pictures have the tokens of training."""
        size = self.reader.tiling.image_size
        refusals = {}
        with TemporaryDirectory() as folder:
            path = f"{folder}/wide.png"
            Image.linear_gradient("L").resize((2 * size, size)).convert("RGB").save(path)
            questions = [self.question("Look: <image>\nWhat is it?", (path,), limit) for limit in LIMITS]
        for dialect in DIALECTS:
            try:
                for question in questions:
                    self.ask(question, dialect=dialect, max_tokens=1)
            except (MisreadError, RefusedError, BrokenError) as error:
                refusals[dialect.name] = str(error)
            else:
                return dialect
        found = "; ".join(f"asked as {name}: {reason}" for name, reason in refusals.items())
        raise UnfitServerError(f"{self.server} reads a picture of {LIMITS[1] - 1} tiles otherwise ({found}); {CURE}")

    def stop_token(self) -> None:
        """An answer whose first token is forced to be the end of an answer must end there."""
        [end] = self.reader.encoder.encode(self.reader.encoder.stop_token)
        question, bias = self.question("Say nothing."), {str(end): FORCED}
        try:
            reply = self.ask(question, logit_bias=bias, max_tokens=4, logprobs=False)
        except RefusedError as error:
            logger.warning("%s takes no logit_bias: where it ends an answer was not tested (%s)", self.server, error)
            return
        [choice] = reply["choices"] if len(reply.get("choices") or []) == 1 else [{}]
        tokens = choice.get("token_ids") or []
        if choice.get("finish_reason") != "stop" and end in tokens:
            raise UnfitServerError(f"{self.server} does not end an answer at {end}, but goes on: {tokens}; {CURE}")
        if choice.get("finish_reason") != "stop":
            logger.warning("%s ignores logit_bias: where it ends an answer was not tested", self.server)

    def draws_many(self) -> bool:
        """Whether two samples at once are those of two requests with the seeds that they should have."""
        asking = replace(self.asking, options=replace(self.asking.options, sampling=CHATTY, logprobs=False))
        check = replace(self, asking=asking)
        question = self.question("Tell me a story.")
        first, again, second = (check._said(question, Draw((0,), seed))[0] for seed in (7, 7, 8))
        if first != again:
            logger.warning("%s gives other answers to the same seed: a retry is another sample", self.server)
            return False
        try:
            both = check._said(question, Draw((0, 1), 7))
        except (RefusedError, ValueError):
            return False
        return both == [first, second] and first != second

    def _said(self, question: WrittenPrompt, draw: Draw) -> list[tuple[Any, ...]]:
        """Texts and tokens of the answers, in their order; ValueError where there are not as many."""
        choices = self.ask(question, draw).get("choices") or []
        if len(choices) != len(draw.samples):
            raise ValueError(f"{len(choices)} answers")
        return [_content(choice) for choice in sorted(choices, key=lambda choice: choice.get("index", 0))]


def _content(choice: Mapping[str, Any]) -> tuple[Any, ...]:
    return (choice.get("message") or {}).get("content"), tuple(choice.get("token_ids") or ())
