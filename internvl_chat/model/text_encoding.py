"""Text to token ids where only trusted text may hold special tokens.

A chat template writes special tokens; a question or an answer that spells one out ("<|im_end|>", "<IMG_CONTEXT>",
"</s>") means its characters. Tokenizers cannot tell the two apart in one string, so prompts are encoded from parts.
"""

import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from .constants import IMG_CONTEXT_TOKEN, IMG_END_TOKEN, IMG_START_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where special tokens of these families start: cutting a text after these characters leaves none of them whole.
_AFTER_OPENING = re.compile(r"(?<=[<\[])")


class Part(NamedTuple):
    """A piece of a prompt; special tokens are read as such only where it is `trusted`."""

    text: str
    trusted: bool


class TextEncoder:
    """Encodes plain text and prompts of parts with a tokenizer of either family."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Take a tokenizer; the image tokens count as special whether it calls them so or not."""
        self.tokenizer = tokenizer
        special = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, special)) + ")")
        image_tokens = [IMG_START_TOKEN, IMG_CONTEXT_TOKEN, IMG_END_TOKEN]
        self._reserved = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(image_tokens)}
        self._reserved |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._reserved -= {tokenizer.unk_token_id, None}  # of tokens that it does not know

    @cached_property
    def _most_characters(self) -> int:
        """Of a text that one token can stand for; normalization may have made one of up to four."""
        return 4 * max(map(len, self.tokenizer.get_vocab()))

    def fewest_tokens(self, text: str) -> int:
        """A number that the tokens of a text reach at least, told from its length: encoding 10 MB takes 1.5 GB."""
        return -(-len(text) // self._most_characters)

    def special_id(self, token: str) -> int:
        """Id of a special token; ValueError unless the tokenizer knows it."""
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer does not know {token!r}: do tokenizer and template belong together?")
        return index

    def beginning(self) -> list[int]:
        """What this tokenizer puts in front of a text: its token for the beginning, or nothing."""
        return [i for i in self.tokenizer.encode("", add_special_tokens=True) if i == self.tokenizer.bos_token_id]

    def encode(self, parts: Iterable[Part]) -> list[int]:
        """Ids of parts that follow each other without a seam, nothing put in front."""
        ids: list[int] = []
        plain = ""
        for part in parts:
            pieces = self._special_pattern.split(part.text) if part.trusted else [part.text]
            plain += pieces[0]  # plain, special, plain, ..., plain
            for special, after in zip(pieces[1::2], pieces[2::2], strict=True):
                ids += [*self.encode_text(plain), self.special_id(special)]
                plain = after
        return ids + self.encode_text(plain)

    def encode_text(self, text: str) -> list[int]:
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
        return [index for part in (parts if len(parts) > 1 else text) for index in self.encode_text(part)]
