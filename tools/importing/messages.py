"""Messages of other trainers, in their words, as messages in one word: who speaks, the text, the pictures inside it.

    {"role": "user", "content": "What is it?"}                                   OpenAI, TRL, ms-swift
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    {"from": "human", "value": "<image>What is it?"}                             ShareGPT, LLaMA-Factory

A part of type image becomes `<image>` and a line end at its place, as rows of MMPR have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.records.rows import shown

SPEAKERS = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "system": "system",
    "developer": "system",
}
KEYS = (("role", "content"), ("from", "value"))
EMPTY: tuple[Any, ...] = (None, "", "[]", [], {})  # parquet gives every message the fields of all, most of them null
PAYLOADS = ("bytes", "image", "image_url", "url", "path")


class NotAPairError(ValueError):
    """A row that cannot be said in rows of ours; the text is the reason, for a reject."""


class Message(NamedTuple):
    """`speaker` user, assistant or system; `text`; what each part of type image holds, None where `images` has it."""

    speaker: str
    text: str
    pictures: tuple[Any, ...] = ()


def read_messages(row: Mapping[str, Any], field: str, speaker: str = "user") -> list[Message]:
    """The messages under a field: a list of them, one, or a text, which is a message of `speaker`.

    Raises:
        NotAPairError: the field is missing or holds something else, or a message has what rows cannot say.
    """
    value = row.get(field)
    if isinstance(value, str):
        return [Message(speaker, value)]
    messages = [value] if isinstance(value, Mapping) else value
    if messages is None:
        raise NotAPairError(f"field {field!r} is missing; the row has {shown(sorted(row), 200)}")
    if not isinstance(messages, list) or not messages:
        raise NotAPairError(f"field {field!r} must hold a text or messages, not {shown(value)}")
    return [_message(message, field) for message in messages]


def _message(message: Any, field: str) -> Message:
    keys = next((keys for keys in KEYS if isinstance(message, Mapping) and keys[0] in message), None)
    if keys is None:
        raise NotAPairError(f"a message in {field!r} must have role and content, or from and value: {shown(message)}")
    if more := sorted(name for name, value in message.items() if name not in keys and value not in EMPTY):
        raise NotAPairError(f"a message in {field!r} has {', '.join(more)}, which rows cannot say")
    speaker = SPEAKERS.get(str(message[keys[0]]))
    if speaker is None:
        raise NotAPairError(f"a message in {field!r} is of {shown(message[keys[0]])}, who has no place in a row")
    text, pictures = _content(message.get(keys[1]), field)
    if pictures and speaker != "user":
        raise NotAPairError(f"a message in {field!r} has a picture of {speaker}; only questions have pictures")
    return Message(speaker, text, pictures)


def _content(content: Any, field: str) -> tuple[str, tuple[Any, ...]]:
    """Text and pictures of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise NotAPairError(f"a message in {field!r} must hold a text or parts, not {shown(content)}")
    texts, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            texts.append(f"{IMAGE_PLACEHOLDER}\n")
            pictures.append(_payload(part))
        else:
            raise NotAPairError(f"a message in {field!r} has a part that is neither text nor image: {shown(part)}")
    return "".join(texts), tuple(pictures)


def _payload(part: Mapping[str, Any]) -> Any:
    """What a part of type image holds itself: bytes, a path, {bytes, path}; None where it holds nothing."""
    held = next((part[name] for name in PAYLOADS if part.get(name) is not None), None)
    return held.get("url") if isinstance(held, Mapping) and "url" in held else held
