"""What is sent to an OpenAI-compatible server, and what comes back: chat completions with images and exact seeds.

Everything that decides an answer is sent with each request, as servers fill in what is missing from the checkpoint's
generation_config.json. A prompt is compared with training's by the ids that the server returns (vLLM, lmdeploy), or by
their number.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from internvl_chat.data.images import open_image
from internvl_chat.data.tokenization import place_images
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.records.rows import Source
from tools.reasoning_data_pipeline.engines.inputs import Draw, PromptEncoder, ReadPrompt
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions
from tools.reasoning_data_pipeline.engines.server_client import BrokenError

EXIF_ORIENTATION = 274
NEUTRAL = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


@dataclass(frozen=True)
class Dialect:
    """How a server wants a question with images.

    Attributes:
        name: for the log.
        placeholder: what stands in the text for an image; None where images are parts between parts of text.
        ends_line: whether the server's template puts a newline behind an image, so that the question's own is left out.
        tile_limit: name of the tile limit.
        beside_url: whether the limit stands beside the URL of each image, not in `mm_processor_kwargs`.
    """

    name: str
    placeholder: str | None = None
    ends_line: bool = False
    tile_limit: str = "max_dynamic_patch"
    beside_url: bool = False


DIALECTS = (
    Dialect("vLLM", placeholder=IMAGE_PLACEHOLDER),
    Dialect("vLLM, a template that writes images", ends_line=True),
    Dialect("vLLM, -hf", placeholder="<IMG_CONTEXT>", tile_limit="max_patches"),
    Dialect("vLLM, -hf, a template that writes images", ends_line=True, tile_limit="max_patches"),
    Dialect("images between texts"),
    Dialect("lmdeploy", placeholder="<IMAGE_TOKEN>", beside_url=True),
    Dialect("lmdeploy, images between texts", beside_url=True),
)


class MisreadError(Exception):
    """A server reads a prompt otherwise than training does; the text has both numbers."""


@dataclass(frozen=True)
class WrittenPrompt:
    """A prompt in the form in which it is sent, in any dialect.

    Attributes:
        key: of the request.
        ids: of the prompt in training.
        text: the user's turn, one `<image>` per image.
        urls: of the images.
        max_tiles: tile limit of each image.
        prefix: start of the assistant's turn.
    """

    key: str
    ids: list[int]
    text: str
    urls: tuple[str, ...]
    max_tiles: int
    prefix: str

    @classmethod
    def of(cls, prompt: ReadPrompt, media_root: str) -> WrittenPrompt:
        """From a prompt that was read; images under `media_root` by their path, others as data."""
        request = prompt.request
        [text] = place_images([request.question], len(request.images), Source(request.key, 1))
        pairs = zip(request.images, prompt.images, strict=True)
        urls = tuple(image_url(path, image, media_root) for path, image in pairs)
        return cls(request.key, prompt.ids, text, urls, request.max_tiles, request.prefix)

    def content(self, dialect: Dialect) -> str | list[dict[str, Any]]:
        """The user's turn."""
        if not self.urls:
            return self.text
        pictures = [self._picture(url, dialect) for url in self.urls]
        if dialect.placeholder is not None:
            text = self.text.replace(IMAGE_PLACEHOLDER, dialect.placeholder)
            return [*pictures, {"type": "text", "text": text}]
        first, *texts = self.text.split(IMAGE_PLACEHOLDER)
        parts = [{"type": "text", "text": first}]
        for picture, text in zip(pictures, texts, strict=True):
            said = text.removeprefix("\n") if dialect.ends_line else text
            parts += [picture, {"type": "text", "text": said}]
        return [part for part in parts if part.get("text") != ""]

    def _picture(self, url: str, dialect: Dialect) -> dict[str, Any]:
        limit = {dialect.tile_limit: self.max_tiles} if dialect.beside_url else {}
        return {"type": "image_url", "image_url": {"url": url, **limit}}


def image_url(path: str, image: Image.Image, media_root: str) -> str:
    """A file URL below `media_root`, else the image as data: the file's own bytes where any server reads them alike."""
    with open_image(path) as opened:
        kind = opened.format if opened.mode == "RGB" and opened.getexif().get(EXIF_ORIENTATION, 1) == 1 else None
    if kind in ("PNG", "JPEG"):
        real = Path(path).resolve()
        if media_root and real.is_relative_to(Path(media_root).resolve()):
            return real.as_uri()
        return f"data:image/{kind.lower()};base64,{base64.b64encode(real.read_bytes()).decode()}"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # the pixels that training sees
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Asking:
    """What is the same in all requests of a run.

    Attributes:
        encoder: of the checkpoint.
        stop_ids: tokens that end an answer.
        options: how tokens are drawn.
    """

    encoder: PromptEncoder
    stop_ids: frozenset[int]
    options: EngineOptions

    def body(self, question: WrittenPrompt, draw: Draw, dialect: Dialect, model: str, **more: Any) -> dict[str, Any]:
        """The JSON of a request for the samples of `draw`; `more` wins."""
        sampling = self.options.sampling
        messages = [{"role": "system", "content": self.encoder.system_message}] if self.encoder.system_message else []
        messages.append({"role": "user", "content": question.content(dialect)})  # type: ignore[dict-item]
        body: dict[str, Any] = {
            "model": model,
            "n": len(draw.samples),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or (0 if dialect.beside_url else -1),
            "max_tokens": min(sampling.max_new_tokens, self.options.session_len - len(question.ids)),
            "stop_token_ids": sorted(self.stop_ids),
            "return_token_ids": True,
            "logprobs": self.options.logprobs,
            **NEUTRAL,
        }
        if sampling.temperature > 0:
            body["seed"] = draw.seed
        if question.urls and not dialect.beside_url:
            body["mm_processor_kwargs"] = {dialect.tile_limit: question.max_tiles}
        if question.prefix:
            messages.append({"role": "assistant", "content": question.prefix})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return {**body, "messages": messages, **more}

    def answers(self, reply: Mapping[str, Any], count: int) -> list[ServedAnswer]:
        """The `count` answers of a reply.

        Raises:
            BrokenError: it has others, or none that makes sense.
        """
        choices = reply.get("choices")
        if not isinstance(choices, list) or len(choices) != count:
            found = len(choices) if isinstance(choices, list) else "no"
            raise BrokenError(f"{found} answers where {count} were asked for")
        try:
            ordered = sorted(choices, key=lambda choice: choice["index"])
            return [self._answer(choice) for choice in ordered]
        except (KeyError, TypeError, AttributeError) as error:
            raise BrokenError(f"an answer without {error}") from error

    def _answer(self, choice: Mapping[str, Any]) -> ServedAnswer:
        finish, tokens = choice["finish_reason"], choice.get("token_ids")
        if finish not in ("stop", "length"):
            raise BrokenError(f"an answer ended with {finish!r}")
        logprobs = None
        if self.options.logprobs:
            logprobs = tuple(float(token["logprob"]) for token in choice["logprobs"]["content"])
        if tokens is None:
            return ServedAnswer(choice["message"]["content"] or "", finish, None, logprobs)
        ended = [place for place, token in enumerate(tokens) if token in self.stop_ids]
        if ended[:1] != ([len(tokens) - 1] if finish == "stop" else []):
            raise BrokenError(f"an answer of {len(tokens)} tokens ({finish}) has stop tokens at {ended[:3]}")
        text = self.encoder.decode(tokens[:-1] if ended else tokens)
        return ServedAnswer(text, finish, tuple(tokens), logprobs)


@dataclass(frozen=True)
class ServedAnswer:
    """One answer of a server; fields as of `Completion`."""

    text: str
    finish: Literal["stop", "length"]
    tokens: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None


def check_prompt(reply: Mapping[str, Any], ids: Sequence[int]) -> None:
    """Raise MisreadError where a server read other tokens than `ids`, by the ids that it returns or by their number."""
    found = reply.get("prompt_token_ids")
    if found is not None:
        if list(found) != list(ids):
            pairs = zip(found, ids, strict=False)
            place = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(found), len(ids)))
            raise MisreadError(f"{len(found)} tokens where training has {len(ids)}, other ones from number {place} on")
        return
    number = (reply.get("usage") or {}).get("prompt_tokens")
    if number != len(ids):
        raise MisreadError(f"{number} tokens where training has {len(ids)}")
