"""A row's texts and tile counts to token ids and labels, one way for all chat templates.

The prompt is tokenized once and shared by the answers; an answer is tokenized apart from it, as at inference, where the
model continues the prompt's tokens. Only the template may write special tokens: one that is spelled out in a row's text
("<|im_end|>", "<IMG_CONTEXT>", "</s>") is read as plain text. Nothing is ever cut: `TokenizedRow.length` says what a
row costs before its images are decoded, so that its tiles can be planned to fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from internvl_chat.model.constants import (
    IGNORE_INDEX,
    IMAGE_PLACEHOLDER,
    IMG_CONTEXT_TOKEN,
    IMG_END_TOKEN,
    IMG_START_TOKEN,
)
from internvl_chat.model.conversation import get_template
from internvl_chat.records import RecordError, Source, shown

# Where special tokens of these families start: cutting a text after these characters leaves none of them whole.
_AFTER_OPENING = re.compile(r"(?<=[<\[])")


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
        answers: ids of each answer with its end token, all of them supervised.
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

    def input_ids_and_labels(self, prompt_ids: list[int], answer: int) -> tuple[list[int], list[int]]:
        """Ids and labels (IGNORE_INDEX where unsupervised) of the prompt followed by answer number `answer`."""
        ids = self.answers[answer]
        labels = [IGNORE_INDEX] * len(prompt_ids) + ids + [IGNORE_INDEX] * len(self.separator)
        return prompt_ids + ids + self.separator, labels


class RowTokenizer:
    """Tokenizes questions and answers in one chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, num_image_token: int) -> None:
        """Take a tokenizer of either family, a template's name, and the tokens of one tile.

        Raises:
            ValueError: the template is unknown, or the tokenizer lacks one of its special tokens.
        """
        self.tokenizer = tokenizer
        self.template = get_template(template)
        self.image = ImageTokens(
            self._special_id(IMG_START_TOKEN),
            self._special_id(IMG_CONTEXT_TOKEN),
            self._special_id(IMG_END_TOKEN),
            num_image_token,
        )
        special = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, special)) + ")")
        self._reserved = {*tokenizer.all_special_ids, self.image.start, self.image.context, self.image.end}
        self._reserved |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._reserved.discard(tokenizer.unk_token_id)
        part = self.template
        self._close = part.end_token + part.separator
        self._end = [self._special_id(part.end_token)]
        self._separator = self._encode_template(part.separator)
        self._head = self._bos() + self._encode_template(part.system_prefix + part.system_message + self._close)

    def tokenize(self, question: str, answers: Sequence[str], num_images: int, where: Source) -> TokenizedRow:
        """Tokenize a row: its question with one `<image>` per image, or with none, then images come first.

        Args:
            question: text of the user turn.
            answers: one or more answers to it; `<image>` in an answer is plain text.
            num_images: images of the row.
            where: for the error.

        Raises:
            RecordError: the placeholders do not match the images, an answer is empty, or two answers are the same.
        """
        texts = place_images(question, num_images, where).split(IMAGE_PLACEHOLDER)
        pieces = [self._encode_text(text) for text in texts[1:-1]]
        opening = self._encode_template(self.template.user_prefix, then=texts[0])
        closing = self._encode_template(self._close + self.template.assistant_prefix)
        if len(texts) == 1:
            pieces = [self._head + opening + closing]
        else:
            pieces = [self._head + opening, *pieces, self._encode_text(texts[-1]) + closing]
        ids = [self._encode_text(answer) for answer in answers]
        check_answers(answers, ids, where)
        return TokenizedRow(tuple(pieces), tuple(tokens + self._end for tokens in ids), self._separator, self.image)

    def _special_id(self, token: str) -> int:
        """Id of a special token that the tokenizer must know."""
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer does not know {token!r}: do tokenizer and template belong together?")
        return index

    def _bos(self) -> list[int]:
        """What this tokenizer puts in front of a text."""
        return [i for i in self.tokenizer.encode("", add_special_tokens=True) if i == self.tokenizer.bos_token_id]

    def _encode_template(self, text: str, then: str = "") -> list[int]:
        """Ids of a template's text, its special tokens as such, followed without a seam by the row's text `then`."""
        parts = self._special_pattern.split(text)  # plain, special, plain, ..., plain
        parts[-1] += then
        ids: list[int] = []
        for number, part in enumerate(parts):
            ids += [self._special_id(part)] if number % 2 else self._encode_text(part)
        return ids

    def _encode_text(self, text: str) -> list[int]:
        """Ids of plain text, in which no special token can occur.

        `split_special_tokens` sees to that, but for a vocabulary that holds a special token as text too, such as
        InternLM2's [UNUSED_TOKEN_145]. Such a text is cut where special tokens open, and into characters if need be.
        """
        if not text:
            return []
        # verbose: over-long rows are planned for or skipped with a reason, the tokenizer's warning would mislead.
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        if len(text) == 1 or self._reserved.isdisjoint(ids):
            return ids
        parts = [part for part in _AFTER_OPENING.split(text) if part]
        return [index for part in (parts if len(parts) > 1 else text) for index in self._encode_text(part)]


def check_answers(answers: Sequence[str], contents: Sequence[str | list[int]], where: Source) -> None:
    """Raise RecordError where an answer is empty, or the first two are the same, by their `contents`: texts or ids."""
    for answer, content in zip(answers, contents, strict=True):
        if not content:
            raise RecordError(*where, f"an answer is empty, nothing to learn from it: {answer!r}", "empty_answer")
    if len(contents) > 1 and contents[0] == contents[1]:
        raise RecordError(*where, f"chosen and rejected are the same: {shown(answers[0])}", "same_answers")


def place_images(question: str, num_images: int, where: Source) -> str:
    """The question with one `<image>` per image: as it is, or, where it has none, with one line each in front.

    Raises RecordError when it has some, but not as many as there are images.
    """
    placed = question.count(IMAGE_PLACEHOLDER)
    if placed == num_images:
        return question
    if placed == 0:
        return f"{IMAGE_PLACEHOLDER}\n" * num_images + question
    reason = f"{placed} {IMAGE_PLACEHOLDER} in the question for {num_images} images; write one per image, or none"
    raise RecordError(*where, reason, "placeholder_mismatch")
