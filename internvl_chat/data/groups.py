"""Which places of an epoch have a prompt or a picture in common: read off the rows, once, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
import xxhash

from internvl_chat.data.mixture import Mixture
from internvl_chat.model.constants import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from internvl_chat.records.judged import asked_of
from internvl_chat.records.rows import Source, own_keys

GOLDEN_STEP = np.uint64(0x9E3779B97F4A7C15)  # copies of a row land in groups of their own


def prompt_groups(mixture: Mixture) -> np.ndarray:
    """(places,) uint64, equal where data set, copy, images or video, history and question are: each place's prompt."""
    return _groups(mixture, prompt_of)


def image_groups(mixture: Mixture) -> np.ndarray:
    """(places,) uint64, equal where data set, copy, images or video and the text before them are.

    Rows without pictures are in groups by their prompt.
    """
    return _groups(mixture, picture_of)


GROUPS: Mapping[str, Callable[[Mixture], np.ndarray]] = {"prompt": prompt_groups, "image": image_groups}


def _groups(mixture: Mixture, common: Callable[[Mapping[str, Any]], bytes]) -> np.ndarray:
    """Reads every row once. A row that is not JSON is a group of its own; the data set skips it when its turn comes."""
    groups = []
    for data in mixture.datasets:
        rows = np.empty(len(data.rows), np.uint64)
        for row in range(len(data.rows)):
            line, number = data.rows[row]
            rows[row] = xxhash.xxh3_64_intdigest(_common(line, common) or str(number).encode(), seed=data.number)
        data.rows.forget_pages()
        copies = (data.order // len(data.rows)).astype(np.uint64)
        groups.append(rows[data.order % len(data.rows)] + copies * GOLDEN_STEP)
    return np.concatenate(groups)


def _common(line: bytes, common: Callable[[Mapping[str, Any]], bytes]) -> bytes:
    """What a row may have in common with others; nothing of a row that training skips."""
    try:
        row = orjson.loads(line)
        row = own_keys(row, Source("", 0)) if isinstance(row, dict) else {}
    except ValueError:  # no JSON, or pictures under a key that nobody can read
        return b""
    return common(row) if row else b""


def prompt_of(row: Mapping[str, Any]) -> bytes:
    """What a row asks, and of which pictures."""
    more = {name: row[name] for name in ("video", "clip", "history") if row.get(name)}
    return orjson.dumps([row.get("image"), asked_of(row), *more.items()])


def picture_of(row: Mapping[str, Any]) -> bytes:
    """The pictures of a row and what its conversation says before the last of them; its prompt where there are none."""
    image, video = row.get("image"), row.get("video")
    if not (image or video):
        return prompt_of(row)
    images = [image] if isinstance(image, str) else image
    return orjson.dumps([images, video, row.get("clip") if video else None, _before_pictures(row)])


def _before_pictures(row: Mapping[str, Any]) -> str:
    """The text up to the last placeholder of a picture; "" where there is none: pictures then stand in front."""
    turns = row.get("history") or []
    texts = [text for turn in turns if isinstance(turn, list) for text in turn] if isinstance(turns, list) else []
    text = "\n".join(text for text in (*texts, asked_of(row)) if isinstance(text, str))
    end = max(text.rfind(IMAGE_PLACEHOLDER), text.rfind(VIDEO_PLACEHOLDER))
    return text[: max(end, 0)]
