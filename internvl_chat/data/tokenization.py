"""A row's texts and tile counts to token ids and labels, one way for all chat templates.

The prompt is tokenized once and shared by the answers; an answer is tokenized apart from it, as at inference, where the
model continues the prompt's tokens. Only the template may write special tokens: one that is spelled out in a row's text
("<|im_end|>", "<IMG_CONTEXT>", "</s>") is read as plain text. Nothing is ever cut: `TokenizedRow.length` says what a
row costs before its images are decoded, so that its tiles can be planned to fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from internvl_chat.model.constants import (
    IMAGE_PLACEHOLDER,
    IMG_CONTEXT_TOKEN,
    IMG_END_TOKEN,
    IMG_START_TOKEN,
    VIDEO_PLACEHOLDER,
)
from internvl_chat.model.conversation import Part, TextEncoder, get_template
from internvl_chat.records.rows import RecordError, Source, Turn, shown

_IMAGE_MARK = re.compile(
    r"<(?:image|img|picture|pic)[ _-]?\d+>|<\|image(?:_?\d+)?\|>|<(?:Image|IMAGE|ImageHere|image_pad)>"
)


@dataclass(frozen=True)
class ImageTokens:
    """Ids around an image, and `per_tile`, the number of `context` ids that stand for one tile."""

    start: int
    context: int
    end: int
    per_tile: int


@dataclass(frozen=True)
class TokenizedRow:
    """A row whose tile counts are not known yet.

    Attributes:
        pieces: the prompt's ids before, between and after its images: one list more than there are images.
        answers: ids of each answer with its end token and what the template puts in front, all of them supervised.
        separator: ids after an answer's end token, not supervised.
        image: the image tokens.
    """

    pieces: tuple[list[int], ...]
    answers: tuple[list[int], ...]
    separator: list[int]
    image: ImageTokens

    def length(self, num_tiles: int) -> int:
        """Tokens of the prompt with that many tiles in all, and of its longest answer."""
        prompt = sum(map(len, self.pieces)) + 2 * (len(self.pieces) - 1) + num_tiles * self.image.per_tile
        return prompt + max(map(len, self.answers)) + len(self.separator)

    def prompt_ids(self, tile_counts: Sequence[int]) -> list[int]:
        """Ids of the prompt, image i with tile_counts[i] tiles."""
        ids = list(self.pieces[0])
        for tiles, piece in zip(tile_counts, self.pieces[1:], strict=True):
            ids += [self.image.start, *[self.image.context] * (tiles * self.image.per_tile), self.image.end, *piece]
        return ids


class RowTokenizer:
    """Tokenizes questions and answers in one chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        num_image_token: int,
        system_message: str | None = None,
    ) -> None:
        """Take a tokenizer of either family, a template's name, the tokens of one tile, another system message if any.

        `answer_start` are the ids that the template puts in front of an answer.

        Raises:
            ValueError: the template is unknown, or the tokenizer lacks one of its special tokens.
        """
        self.template = get_template(template)
        self.encoder = encoder = TextEncoder(tokenizer)
        start, context, end = map(encoder.special_id, (IMG_START_TOKEN, IMG_CONTEXT_TOKEN, IMG_END_TOKEN))
        self.image = ImageTokens(start, context, end, num_image_token)
        part = self.template
        self._close = part.end_token + part.separator
        self.answer_start = encoder.encode([Part(part.answer_prefix, True)])
        self._end = [encoder.special_id(part.stop_token)]
        self._separator = encoder.encode([Part(part.separator, True)])
        self._head = self.opening(system_message)

    def opening(self, system_message: str | None = None) -> list[int]:
        """Ids of all that stands in front of the first turn, under a system message in place of the template's own."""
        said = self.template.system_message if system_message is None else system_message
        parts = [Part(self.template.system_prefix, True), Part(said, False), Part(self._close, True)]
        return self.encoder.beginning() + self.encoder.encode(parts)

    def check_length(self, texts: Iterable[str], where: Source, max_seq_length: int) -> None:
        """Raise RecordError for a text that cannot fit, by its length alone: before it costs time and memory.

        Args:
            texts: question and answers.
            where: for the error.
            max_seq_length: most tokens.
        """
        for text in texts:
            fewest = self.encoder.fewest_tokens(text)
            if fewest > max_seq_length:
                need = f"a text of {len(text)} characters needs at least {fewest} tokens"
                raise RecordError(*where, f"{need}, max_seq_length is {max_seq_length}", "too_long")

    def tokenize(
        self, question: str, answers: Sequence[str], num_images: int, where: Source, history: Sequence[Turn] = ()
    ) -> TokenizedRow:
        """Tokenize a row: its questions with one `<image>` per image, or with none, then images come first.

        Args:
            question: text of the user turn.
            answers: one or more answers to it; `<image>` in an answer is plain text.
            num_images: images of the row.
            where: for the error.
            history: earlier turns, not supervised.

        Raises:
            RecordError: the placeholders do not match the images, an answer is empty, or two answers are the same.
        """
        questions = place_images([*(turn.question for turn in history), question], num_images, where)
        groups = self._groups(questions, [turn.answer for turn in history])
        pieces = [self.encoder.encode(group) for group in groups]
        ids = [self.encoder.encode_text(answer) for answer in answers]
        check_answers(answers, ids, where)
        ended = tuple(self.answer_start + tokens + self._end for tokens in ids)
        return TokenizedRow((self._head + pieces[0], *pieces[1:]), ended, self._separator, self.image)

    def tokenize_video(
        self,
        question: str,
        answers: Sequence[str],
        num_frames: int,
        *,
        where: Source,
        history: Sequence[Turn] = (),
    ) -> TokenizedRow:
        """Tokenize a row with a video of that many frames, each an image; see `place_frames` and `tokenize`."""
        *earlier, last = place_frames([*(turn.question for turn in history), question], num_frames, where)
        turns = [Turn(asked, turn.answer) for asked, turn in zip(earlier, history, strict=True)]
        return self.tokenize(last, answers, num_frames, where, turns)

    def _groups(self, questions: Sequence[str], answers: Sequence[str]) -> list[list[Part]]:
        """The turns after the system message, cut where images go; the last question has no answer yet."""
        groups: list[list[Part]] = [[]]
        for number, question in enumerate(questions):
            first, *others = question.split(IMAGE_PLACEHOLDER)
            groups[-1] += [Part(self.template.user_prefix, True), Part(first, False)]
            groups += [[Part(text, False)] for text in others]
            groups[-1].append(Part(self._close + self.template.assistant_prefix, True))
            if number < len(answers):
                opening = Part(self.template.answer_prefix, True)
                groups[-1] += [opening, Part(answers[number], False), Part(self._close, True)]
        return groups


def check_answers(answers: Sequence[str], contents: Sequence[str | list[int]], where: Source) -> None:
    """Raise RecordError where an answer is empty, or the first two are the same, by their `contents`: texts or ids."""
    for answer, content in zip(answers, contents, strict=True):
        if not content:
            raise RecordError(*where, f"an answer is empty, nothing to learn from it: {answer!r}", "empty_answer")
    if len(contents) > 1 and contents[0] == contents[1]:
        raise RecordError(*where, f"chosen and rejected are the same: {shown(answers[0])}", "same_answers")


def place_frames(questions: Sequence[str], num_frames: int, where: Source) -> list[str]:
    """The questions with a line `Frame<i>: <image>` per frame in place of `<video>`, or, where it is not, in front.

    Raises RecordError when they have several, or an `<image>`.
    """
    placed = sum(question.count(VIDEO_PLACEHOLDER) for question in questions)
    if placed > 1 or any(IMAGE_PLACEHOLDER in question for question in questions):
        reason = f"a row with a video takes one {VIDEO_PLACEHOLDER} in its question, or none: {shown(questions[-1])}"
        raise RecordError(*where, reason, "placeholder_mismatch")
    frames = "\n".join(f"Frame{number}: {IMAGE_PLACEHOLDER}" for number in range(1, num_frames + 1))
    if placed:
        return [question.replace(VIDEO_PLACEHOLDER, frames) for question in questions]
    return [f"{frames}\n{questions[0]}", *questions[1:]]


def image_marks(questions: Sequence[str]) -> list[str]:
    """What other formats write where an image goes, such as `<image1>` and `<image_1>`: plain text here."""
    return list(dict.fromkeys(mark for question in questions for mark in _IMAGE_MARK.findall(question)))


def place_images(questions: Sequence[str], num_images: int, where: Source) -> list[str]:
    """The questions with one `<image>` per image: as they are, or, where they have none, with a line each in front.

    Raises RecordError when they have some, but not as many as there are images.
    """
    placed = sum(question.count(IMAGE_PLACEHOLDER) for question in questions)
    if placed == num_images:
        return list(questions)
    if placed == 0:
        return [f"{IMAGE_PLACEHOLDER}\n" * num_images + questions[0], *questions[1:]]
    reason = f"{placed} {IMAGE_PLACEHOLDER} in the question for {num_images} images; write one per image, or none"
    if marks := image_marks(questions):
        reason += f" ({', '.join(marks)} is text: write {IMAGE_PLACEHOLDER} there)"
    raise RecordError(*where, reason, "placeholder_mismatch")
