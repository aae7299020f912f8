"""What is suspicious about the texts of a pair: leaked, missing or equal answers, loops, tokens spelled out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from internvl_chat.data.tokenization import image_marks
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.model.conversation import CONTROL_TOKEN
from internvl_chat.records.rows import PreferencePair, shown
from tools.reasoning_data_pipeline.answers.parsing import parse_answer

# What a question contains that asks for the answer in the form of a prompt version.
_FORMS = (("<think>", "en_r1"), (r"\boxed", "en_v2"), ("Final answer:", "en"), ("答案:", "zh"), ("答案：", "zh"))
_GARBLED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_STATED_ANSWER = re.compile(r"(?:[Aa]nswer|答案)\s*(?:is|:|：|为|是)\s*(.+)")
_END_MARKS = ".!?。！？"

LEAKED_CHARACTERS = 40
"""A question that holds a whole chosen answer of at least this length leaks it; shorter ones may be options."""
LOOP_PERIOD, LOOP_LENGTH = 60, 240
"""Characters that are repeated, at most, and how long the repetition goes on at the end of an answer, at least."""


def suspicious_texts(pair: PreferencePair, dataset: str) -> Iterator[tuple[str, str]]:
    """Yield (name of the fault, detail) for a pair of a data set; names of `faults.FAULTS`."""
    answers = {"chosen": pair.chosen, "rejected": pair.rejected or ""}
    for name, text in answers.items():
        if text.isspace():
            yield "blank_answer", f"{name} is {text!r}"
        if IMAGE_PLACEHOLDER in text:
            yield "placeholder_in_answer", f"{name} holds {IMAGE_PLACEHOLDER}"
    if marks := image_marks([pair.conversation]):
        yield "image_mark", f"the question holds {', '.join(marks)}"
    for name, text in {"question": pair.conversation, **answers}.items():
        if found := CONTROL_TOKEN.search(text):
            yield "special_token_in_text", f"{name} holds {found[0]}"
        if found := _GARBLED.search(text):
            yield "garbled_text", f"{name} holds {found[0]!r} at character {found.start()}"
    if pair.rejected and squeezed(pair.chosen) == squeezed(pair.rejected):
        yield "nearly_same_answers", f"{shown(pair.chosen)} and {shown(pair.rejected)}"
    if unit := loop_unit(pair.chosen):
        yield "looping_answer", f"chosen ends in {unit!r} over and over"
    yield from _final_answers(pair, dataset)


def squeezed(text: str) -> str:
    """A text without case, white space and end marks."""
    return "".join(text.casefold().split()).rstrip(_END_MARKS)


def loop_unit(text: str) -> str | None:
    """What the last LOOP_LENGTH characters of a text repeat, at most LOOP_PERIOD long; None where they do not."""
    tail = text[-LOOP_LENGTH:]
    if len(tail) < LOOP_LENGTH:
        return None
    # A tail that repeats itself holds its own last LOOP_PERIOD characters at least once more, one period before.
    ending = tail[-LOOP_PERIOD:]
    start = tail.rfind(ending, 0, len(tail) - 1)
    period = len(tail) - LOOP_PERIOD - start
    if start < 0 or period > LOOP_PERIOD or tail[period:] != tail[:-period] or not ending.strip():
        return None
    return tail[-period:]


def _final_answers(pair: PreferencePair, dataset: str) -> Iterator[tuple[str, str]]:
    """Faults of the final answers; nothing where the question asks for no form and states no answer."""
    version = next((version for mark, version in _FORMS if mark in pair.question), None)
    if len(pair.chosen) >= LEAKED_CHARACTERS and pair.chosen in pair.question:
        yield "answer_leak", "the question holds the whole chosen answer"
        return
    final = parse_answer(pair.chosen, version or "en")
    if final.text is None:
        if version is not None:
            yield "no_final_answer", f"the question asks for the form {version}: {final.error}"
        return
    if any(squeezed(stated) == squeezed(final.text) for stated in _STATED_ANSWER.findall(pair.question)):
        yield "answer_leak", f"the question states the final answer {shown(final.text)}"
    if "correctness" in dataset and pair.rejected and squeezed(pair.chosen) != squeezed(pair.rejected):
        other = parse_answer(pair.rejected, version or "en").text
        if other is not None and squeezed(other) == squeezed(final.text):
            yield "same_final_answer", f"chosen and rejected answer {shown(final.text)}"
