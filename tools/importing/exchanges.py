"""Prompt, chosen and rejected of other trainers to what one of our rows says: earlier turns, a question, two answers.

The prompt may be said apart, or be the beginning that chosen and rejected share. One answer is judged: what differs
over more than one turn, or ends in anything but an answer, is no pair of ours and is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from internvl_chat.data.tokenization import image_marks
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.model.conversation import TEMPLATES
from internvl_chat.records.rows import shown
from tools.importing.messages import EMPTY, Message, NotAPairError

TEMPLATES_OWN = frozenset(template.system_message for template in TEMPLATES.values())
MEDIA = ("video", "videos", "audio", "audios")
TOOLS = ("tools", "functions", "objects")


class Exchange(NamedTuple):
    """What was said before the answers, the last of it the question, and the two answers; fields left `unused`."""

    before: list[Message]
    chosen: Message
    rejected: Message
    unused: tuple[str, ...] = ()


class PairTexts(NamedTuple):
    """`questions` in order, the last one judged; `answers` to those before it; `chosen` and `rejected`; `pictures`."""

    questions: list[str]
    answers: list[str]
    chosen: str
    rejected: str
    pictures: list[Any]


def exchange(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> Exchange:
    """Split into what comes before and the two answers.

    Args:
        prompt: what was said, [] where chosen and rejected begin with it; left out where they begin with a question.
        chosen: the better answer, or the whole conversation that ends in it.
        rejected: the worse one likewise.

    Raises:
        NotAPairError: chosen or rejected is not one answer behind what they share.
    """
    before = prompt
    if chosen[0].speaker != "assistant":
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
        before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not chosen and not rejected:
            raise NotAPairError("chosen and rejected are the same conversation")
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if [message.speaker for message in messages] != ["assistant"]:
            said = ", ".join(message.speaker for message in messages) or "nothing"
            raise NotAPairError(f"{name} must be one answer behind what both share, not {said}")
    return Exchange(before, chosen[0], rejected[0])


def refuse_more(row: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise NotAPairError where a row has something in the fields of these names."""
    if more := [name for name in names if row.get(name) not in EMPTY]:
        raise NotAPairError(f"field {more[0]!r} is of a kind that is not imported: {shown(row[more[0]])}")


def earlier_turns(row: Mapping[str, Any]) -> list[Message]:
    """The messages of the fields `system`, a text, and `history`, [[question, answer], ...]; [] without them."""
    system, history = row.get("system") or "", row.get("history") or []
    texts = [system, *(text for turn in history for text in turn)] if _is_table_of_two(history) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise NotAPairError("'system' must be a text and 'history' list [question, answer] pairs of texts")
    turns = [Message(*said) for turn in history for said in zip(("user", "assistant"), turn, strict=True)]
    return [*([Message("system", system)] if system else []), *turns]


def _is_table_of_two(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in value)


def pair_texts(said: Exchange, images: list[Any], system_prompt: str | None) -> PairTexts:
    """The texts and pictures of a row.

    Args:
        said: as it was read.
        images: the pictures of the row; those that parts of messages hold count where there are none.
        system_prompt: the system message that training will use, None for the template's own.

    Raises:
        NotAPairError: there is another system message, turns do not alternate, or pictures are not told apart.
    """
    turns = _without_system(said.before, system_prompt)
    _check_order([turn.speaker for turn in turns])
    questions, answers = [turn.text for turn in turns[::2]], [turn.text for turn in turns[1::2]]
    pictures = _pictures([picture for turn in turns for picture in turn.pictures], images)
    texts = PairTexts(questions, answers, said.chosen.text, said.rejected.text, pictures)
    if pictures and IMAGE_PLACEHOLDER not in "".join(questions):
        _check_unplaced(texts)
    return texts


def _without_system(messages: list[Message], wanted: str | None) -> list[Message]:
    """The messages behind the system message; NotAPairError for one that training would not write."""
    if not messages or messages[0].speaker != "system":
        return messages
    said, *turns = messages
    allowed = TEMPLATES_OWN if wanted is None else {wanted.strip()}
    if said.text.strip() not in {"", *allowed}:
        cure = "take such rows by --system_prompt TEXT, and train with the same flag"
        raise NotAPairError(f"a system message that is not the template's: {shown(said.text)}; {cure}")
    return turns


def _check_order(speakers: list[str]) -> None:
    """Raise NotAPairError unless user and assistant take turns, the user first and last."""
    wanted = ["user" if number % 2 == 0 else "assistant" for number in range(len(speakers))]
    if speakers != wanted or len(speakers) % 2 == 0:
        order = ", ".join(speakers) or "nothing"
        raise NotAPairError(f"questions and answers must take turns and end with the question, not {order}")


def _pictures(held: list[Any], images: list[Any]) -> list[Any]:
    """The pictures in the order of their places."""
    if all(picture is None for picture in held):
        return images
    if images or None in held:
        raise NotAPairError("pictures stand both in messages and in 'images'; keep one of the two")
    return held


def _check_unplaced(texts: PairTexts) -> None:
    """Raise NotAPairError where pictures that no question places have a place after all: they would come first."""
    if any(IMAGE_PLACEHOLDER in text for text in (*texts.answers, texts.chosen, texts.rejected)):
        raise NotAPairError(f"{IMAGE_PLACEHOLDER} stands in an answer; only questions have pictures")
    if marks := image_marks(texts.questions):
        raise NotAPairError(f"{', '.join(marks)} is text in a question: write {IMAGE_PLACEHOLDER} there")
