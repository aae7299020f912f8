"""What the page sends with a question: the turns of a conversation with their images, all within bounds.

The page keeps the conversation and sends it whole, so the server remembers nobody: a JSON object {"turns": [..]}, a
turn {"question", "version", "images": [base64, ..], "answers": [one per checkpoint]}; the last one is to be answered.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from internvl_chat.data import images
from internvl_chat.records.rows import Source
from tools.reasoning_data_pipeline.prompts.wording import AS_TYPED, VERSIONS, ask

MAX_TURNS = 16
MAX_IMAGES = 8  # of a conversation

Kind = TypeVar("Kind", str, list, dict)


@dataclass(frozen=True)
class AskedTurn:
    """One question.

    Attributes:
        question: as typed.
        version: of its words, or AS_TYPED.
        text: as asked, with one `<image>` per image.
        images: RGB, of this turn.
        answers: of each checkpoint; () for the turn that is to be answered.
    """

    question: str
    version: str
    text: str
    images: tuple[Image.Image, ...]
    answers: tuple[str, ...]


def read_turns(request: dict[str, Any], checkpoints: int) -> list[AskedTurn]:
    """The turns of a request, one or more.

    Raises:
        ValueError: what is wrong with them; an ImageError is one.
    """
    rows = field(request, "turns", list)
    if not 1 <= len(rows) <= MAX_TURNS:
        raise ValueError(f"{len(rows)} questions in the conversation; from 1 to {MAX_TURNS} are taken: begin a new one")
    number = sum(len(field(row, "images", list)) for row in rows)
    if number > MAX_IMAGES:
        raise ValueError(f"{number} images in the conversation; at most {MAX_IMAGES} are taken")
    turns: list[AskedTurn] = []
    pixels = 0
    for index, row in enumerate(rows):
        turns.append(read_turn(row, 0 if index == len(rows) - 1 else checkpoints))
        pixels += sum(image.width * image.height for image in turns[-1].images)
        if pixels > images.MAX_PIXELS:
            raise ValueError(f"the images together have {pixels} pixels; at most {images.MAX_PIXELS} are taken")
    return turns


def read_turn(row: dict[str, Any], answers: int) -> AskedTurn:
    """One turn that has so many answers; ValueError as of `read_turns`."""
    question, version = field(row, "question", str), field(row, "version", str)
    if not question.strip():
        raise ValueError("the question is empty")
    if version not in (AS_TYPED, *VERSIONS):
        raise ValueError(f"{version!r} is no prompt version; there are {', '.join(VERSIONS)}")
    found = field(row, "answers", list) if answers else []
    if len(found) != answers or not all(isinstance(answer, str) for answer in found):
        raise ValueError(f"an earlier question needs {answers} answers, one per checkpoint")
    seen = tuple(read_image(data) for data in field(row, "images", list))
    words = None if version == AS_TYPED else version
    text = ask(question, len(seen), version=words, where=Source("the question", 1))
    return AskedTurn(question, version, text, seen, tuple(found))


def parse_request(data: bytes) -> dict[str, Any]:
    """The JSON object of a request; ValueError of any other bytes."""
    try:
        return checked(json.loads(data), dict, "the request")
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the request is no JSON: {error}") from error


def field(row: Any, name: str, kind: type[Kind]) -> Kind:
    """A field of a JSON object; ValueError unless it is there and of this kind."""
    return checked(checked(row, dict, "a turn").get(name), kind, f"field {name!r}")


def checked(value: Any, kind: type[Kind], name: str) -> Kind:
    """The value; ValueError unless it is of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a JSON {kind.__name__}, not {type(value).__name__}")
    return value


def read_image(text: Any) -> Image.Image:
    """Decode an uploaded image, base64, within the bounds of training.

    Raises:
        ImageError: says why it cannot be, without the path it was kept at.
        ValueError: it is no base64.
    """
    try:
        data = base64.b64decode(checked(text, str, "an image"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image is no base64: {error}") from error
    with tempfile.NamedTemporaryFile(prefix="upload") as file:
        file.write(data)
        file.flush()
        try:
            return images.load_image(file.name)
        except images.ImageError as error:
            raise images.ImageError(str(error).replace(file.name, "the file"), error.fault) from error
