"""Rows of a known layout to MMPR rows: question, chosen and rejected, `image` and `history` where there are any.

Placeholders end up one per picture, where they stood; where none stood, pictures come first. A row of our own layout
keeps its question as it is written. Fields that the layout does not know stay beside, whatever JSON can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from internvl_chat.data.tokenization import place_images
from internvl_chat.records.rows import PreferencePair, RecordError, Source, shown
from tools.importing.exchanges import MEDIA, TOOLS, PairTexts, earlier_turns, pair_texts, refuse_more
from tools.importing.layouts import OURS, Layout
from tools.importing.messages import EMPTY, NotAPairError
from tools.importing.pictures import PictureStore

TAKEN = ("image", "images", "rejected_images", "history", "system")  # of all layouts


@dataclass
class PairReader:
    """Reads the rows of one file.

    Attributes:
        layout: of the file.
        pictures: where its pictures go.
        system_prompt: the system message that training will use, None for the template's own.
        left_out: names of fields that JSON cannot hold, as far as rows were read.
    """

    layout: Layout
    pictures: PictureStore
    system_prompt: str | None = None
    left_out: set[str] = field(default_factory=set)

    def pair_row(self, row: Mapping[str, Any], where: Source) -> dict[str, Any]:
        """One row as MMPR has it, its pictures saved.

        Raises:
            RecordError: it cannot be said in a row of ours, or a field is missing or of a wrong type.
            ImageError: what should be a picture is none, or is not there.
        """
        row = _published(row)
        try:
            refuse_more(row, MEDIA if self.layout is OURS else MEDIA + TOOLS)
            said = self.layout.read(row)
            said = said._replace(before=[*earlier_turns(row), *said.before])
            texts = pair_texts(said, _images(row), self.system_prompt)
        except NotAPairError as error:
            raise RecordError(*where, str(error)) from error
        placed = place_images(texts.questions, len(texts.pictures), where)
        texts = texts if self.layout is OURS else texts._replace(questions=placed)
        return self._written(texts, self._kept(row, said.unused), where)

    def _written(self, texts: PairTexts, kept: dict[str, Any], where: Source) -> dict[str, Any]:
        *earlier, question = texts.questions
        history = [list(turn) for turn in zip(earlier, texts.answers, strict=True)]
        own: dict[str, Any] = {"question": question, "chosen": texts.chosen, "rejected": texts.rejected}
        own |= {"history": history} if history else {}
        marks = {"image": ["to be saved"] * len(texts.pictures)} if texts.pictures else {}
        PreferencePair.from_row({**marks, **own, **kept}, where)  # before a picture is written
        paths = [self.pictures.save(picture, where) for picture in texts.pictures]
        named = {"image": paths if len(paths) > 1 else paths[0]} if paths else {}
        return {**named, **own, **kept}

    def _kept(self, row: Mapping[str, Any], unused: tuple[str, ...]) -> dict[str, Any]:
        """The fields that are not the layout's; those of one of our names get `original_` in front."""
        taken = {*self.layout.fields, *self.layout.also, *TAKEN}.difference(unused)
        others = {name: value for name, value in row.items() if name not in taken}
        kept = {name: value for name, value in others.items() if _is_json(value)}
        self.left_out |= others.keys() - kept.keys()
        return {f"original_{name}" if name in PreferencePair.KEYS else name: value for name, value in kept.items()}


def _images(row: Mapping[str, Any]) -> list[Any]:
    """The pictures of a row, one or a list, in `images` or `image`; other fields may only name the same."""
    given = {name: row[name] for name in ("images", "image", "rejected_images") if row.get(name) not in EMPTY}
    lists = {name: found if isinstance(found, list) else [found] for name, found in given.items()}
    images = lists.get("images") or lists.get("image") or []
    if other := next((name for name, found in lists.items() if found != images), None):
        raise NotAPairError(f"the pictures in {other!r} are others than the row's: {shown(lists[other])}")
    return images


def _is_json(value: Any) -> bool:
    """Whether a value can be written: no bytes, and nothing that is nested too deeply."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def _published(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the fields that `tools/publish.py` wrote as JSON into `extra`; what is no JSON object stays."""
    text = row.get("extra")
    if "images" not in row or not isinstance(text, str):
        return dict(row)
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        fields = None
    others = {name: value for name, value in row.items() if name != "extra"}
    return {**fields, **others} if isinstance(fields, dict) else dict(row)
