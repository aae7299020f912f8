"""Chat templates of the InternVL families, as data, and prompts to token ids.

All templates have the same shape, `<system>{sep}` and then `{role prefix}{text}{sep}` per turn; only the strings
differ. GPT-OSS also writes which channel an answer is for, and ends the last answer otherwise than earlier turns. The
system messages are those of the released models: a model asked under another one is another model. `Template.render`
writes a conversation out; training writes its turns around the images of a row by itself, to the same ids.

Of the tokens that are more than pieces of words, some are control: turns, images, ends, tools are built with them. A
question or an answer that spells one out ("<|im_end|>", "<IMG_CONTEXT>", "</s>") means its characters. All others are
content, as of grounding ("<ref>", "<box>", "<quad>") and what a user added to a tokenizer: they are read and written as
one id each, in anybody's text, as by a plain call of the tokenizer. Tokenizers call both kinds special and cannot tell
the two apart in one string, so `TextEncoder` encodes prompts from parts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from .constants import (
    IMAGE_PLACEHOLDER,
    IMG_CONTEXT_TOKEN,
    IMG_END_TOKEN,
    IMG_START_TOKEN,
    VIDEO_PLACEHOLDER,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_IMAGE_TOKENS = (IMG_START_TOKEN, IMG_CONTEXT_TOKEN, IMG_END_TOKEN)
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Names in <|..|> by which the families of language models build turns, tools, images and gaps to fill.
_CONTROL_NAMES = (
    "im_start im_end im_sep endoftext startoftext endofprompt begin_of_text end_of_text start_header_id end_header_id "
    "eot_id eom_id eot eom bos eos pad unk start end message channel constrain return call system user assistant tool "
    "observation action_start action_end interpreter plugin python_tag fim_prefix fim_middle fim_suffix fim_pad "
    "repo_name file_sep vision_start vision_end vision_pad image image_pad video video_pad finetune_right_pad_id"
)
CONTROL_TOKEN = re.compile(
    r"<\|(?:" + _CONTROL_NAMES.replace(" ", "|") + r"|(?:reserved|placeholder)\w*)\|>"
    r"|\[UNUSED_TOKEN_\d+\]|</?s>|</?img>|<IMG_CONTEXT>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn)>"
)
"""A token that builds prompts of some family, as text."""

# Where special tokens of these families start: cutting a text after these characters leaves none of them whole.
_AFTER_OPENING = re.compile(r"(?<=[<\[])")

_SYSTEM_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
_SYSTEM_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_SYSTEM_3_5_GPT_OSS = """
You are InternVL, a large language model trained by Shanghai AI Laboratory.
Knowledge cutoff: 2024-06
Current date: 2025-08-06

Reasoning: low

# Valid channels: final. Channel must be included for every message.
""".strip()
# InternVL3.5's thinking mode: this system message in place of the template's own, word for word.
THINKING_SYSTEM_MESSAGE = """
You are an AI assistant that rigorously follows this response protocol:

1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason \
through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.

2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the answer \
from the think section with a newline.

Ensure that the thinking process is thorough but remains focused on the query. The final answer should be standalone \
and not reference the thinking section.
""".strip()


class Piece(NamedTuple):
    """A piece of a rendered conversation; `supervised` says whether the model learns to write it."""

    text: str
    supervised: bool


@dataclass(frozen=True)
class Template:
    """Strings of one chat format.

    Attributes:
        name: as in `config.template`.
        system_prefix: opens the system turn.
        system_message: default text of the system turn.
        user_prefix: opens a user turn.
        assistant_prefix: opens an assistant turn.
        end_token: closes every turn; the assistant learns to write it, and generation stops at it.
        separator: what follows `end_token`; nobody learns to write it.
        answer_prefix: what the assistant writes in front of an answer and learns to write; an open turn ends with it.
        last_end_token: closes the last answer, in place of `end_token`, where a format tells the two apart.
    """

    name: str
    system_prefix: str
    system_message: str
    user_prefix: str
    assistant_prefix: str
    end_token: str
    separator: str = ""
    answer_prefix: str = ""
    last_end_token: str = ""

    @property
    def stop_token(self) -> str:
        """What ends the answer that is learned or generated."""
        return self.last_end_token or self.end_token

    def render(self, turns: list[tuple[str, str | None]], system_message: str | None = None) -> list[Piece]:
        """Return the conversation as pieces whose texts, joined, are the whole prompt.

        An assistant turn becomes three pieces: its prefix, the supervised answer with what it is written between, the
        separator.

        Args:
            turns: (role, text) with role "user" or "assistant". A last assistant turn with text None asks for an
                answer: only its prefix is rendered.
            system_message: replaces the template's own.

        Raises:
            ValueError: a role is unknown, or a text is missing elsewhere than in the last assistant turn.
        """
        system = self.system_message if system_message is None else system_message
        pieces = [Piece(self.system_prefix + system + self.end_token + self.separator, False)]
        for index, (role, text) in enumerate(turns):
            is_last = index == len(turns) - 1
            _check_turn(index, role, text, is_last=is_last)
            pieces += self._turn(role, text, is_last=is_last)
        return [piece for piece in pieces if piece.text]

    def _turn(self, role: str, text: str | None, *, is_last: bool) -> list[Piece]:
        if role == "user":
            return [Piece(f"{self.user_prefix}{text}{self.end_token}{self.separator}", False)]
        if text is None:
            return [Piece(self.assistant_prefix + self.answer_prefix, False)]
        answer = self.answer_prefix + text + (self.stop_token if is_last else self.end_token)
        return [Piece(self.assistant_prefix, False), Piece(answer, True), Piece(self.separator, False)]

    def prompt(self, turns: list[tuple[str, str | None]], system_message: str | None = None) -> str:
        """Return `render` as one string; see there for the arguments."""
        return "".join(piece.text for piece in self.render(turns, system_message))


def _check_turn(index: int, role: str, text: str | None, *, is_last: bool) -> None:
    if role not in ("user", "assistant"):
        raise ValueError(f"turn {index} has role {role!r}; a role is 'user' or 'assistant'")
    if text is None and not (is_last and role == "assistant"):
        raise ValueError(f"turn {index} ({role}) has no text; only a last assistant turn may be open")


TEMPLATES = {
    "internvl2_5": Template(
        name="internvl2_5",
        system_prefix="<|im_start|>system\n",
        system_message=_SYSTEM_2_5,
        user_prefix="<|im_start|>user\n",
        assistant_prefix="<|im_start|>assistant\n",
        end_token="<|im_end|>",
        separator="\n",
    ),
    "Hermes-2": Template(
        name="Hermes-2",
        system_prefix="<|im_start|>system\n",
        system_message=_SYSTEM_2,
        user_prefix="<|im_start|>user\n",
        assistant_prefix="<|im_start|>assistant\n",
        end_token="<|im_end|>",
    ),
    "internlm2-chat": Template(
        name="internlm2-chat",
        system_prefix="<|im_start|>system\n",
        system_message=_SYSTEM_2,
        user_prefix="<|im_start|>user\n",
        assistant_prefix="<|im_start|>assistant\n",
        end_token="<|im_end|>",
    ),
    "phi3-chat": Template(
        name="phi3-chat",
        system_prefix="<|system|>\n",
        system_message=_SYSTEM_2,
        user_prefix="<|user|>\n",
        assistant_prefix="<|assistant|>\n",
        end_token="<|end|>",
    ),
    "internvl3_5_gpt_oss": Template(
        name="internvl3_5_gpt_oss",
        system_prefix="<|start|>system<|message|>",
        system_message=_SYSTEM_3_5_GPT_OSS,
        user_prefix="<|start|>user<|message|>",
        assistant_prefix="<|start|>assistant",
        end_token="<|end|>",
        answer_prefix="<|channel|>final<|message|>",
        last_end_token="<|return|>",
    ),
}


def get_template(name: str | None) -> Template:
    """Return the template called `name`.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name is None or name not in TEMPLATES:
        raise ValueError(f"unknown chat template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


class Part(NamedTuple):
    """A piece of a prompt; special tokens are read as such only where it is `trusted`."""

    text: str
    trusted: bool


def expand_placeholders(text: str, images: list[str]) -> list[Part]:
    """Return `text` as parts, its placeholders replaced in order by what is taken from the front of `images`.

    Only the replacements are trusted to hold special tokens.

    Raises:
        ValueError: there are more placeholders than images.
    """
    parts = text.split(IMAGE_PLACEHOLDER)
    if len(parts) - 1 > len(images):
        raise ValueError(
            f"{len(parts) - 1} {IMAGE_PLACEHOLDER} placeholders but {len(images)} images left; "
            f"num_patches_list must name the tiles of every image: {text!r}"
        )
    taken = [images.pop(0) for _ in parts[1:]]
    pairs = zip(taken, parts[1:], strict=True)
    return [Part(parts[0], False), *(p for image, after in pairs for p in (Part(image, True), Part(after, False)))]


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> set[str]:
    """The tokens of a tokenizer that build prompts; all others that were added to its vocabulary are content."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    named = {getattr(tokenizer, role) for role in _ROLES} - {None}
    placed = {IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER} & added
    return {*_IMAGE_TOKENS, *placed, *map(str, named), *filter(CONTROL_TOKEN.fullmatch, added)}


class TextEncoder:
    """Encodes plain text and prompts of parts with a tokenizer of either family."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Take a tokenizer; what is control goes by `control_tokens`, whether it calls a token special or not."""
        self.tokenizer = tokenizer
        control = control_tokens(tokenizer)
        content = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens} - control
        self._special_pattern = _any_of({*control, *content})
        self._content_pattern = _any_of(content) if content else None
        self._control = set(tokenizer.convert_tokens_to_ids(sorted(control)))
        self._control -= {tokenizer.unk_token_id, None}  # of tokens that it does not know

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
            raise ValueError(
                f"the tokenizer does not know {token!r}: do tokenizer and template (--conv_style) belong together?"
            )
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
        """Ids of plain text, in which content tokens are one id each and no control token can occur."""
        if not text:
            return []
        # verbose: over-long rows are planned for or skipped with a reason, the tokenizer's warning would mislead.
        ids = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        if self._control.isdisjoint(ids):
            return ids
        if self._content_pattern is None:
            return self._encode_without_control(text)
        ids = []
        for number, piece in enumerate(self._content_pattern.split(text)):  # plain, content, plain, ..., plain
            ids += [self.special_id(piece)] if number % 2 else self._encode_without_control(piece)
        return ids

    def _encode_without_control(self, text: str) -> list[int]:
        """Ids of a text that spells control tokens, and no content token, out.

        `split_special_tokens` sees to that, but for a vocabulary that holds a special token as text too, such as
        InternLM2's [UNUSED_TOKEN_145]. Such a text is cut where special tokens open, and into characters if need be.
        """
        if not text:
            return []
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        if len(text) == 1 or self._control.isdisjoint(ids):
            return ids
        parts = [part for part in _AFTER_OPENING.split(text) if part]
        return [index for part in (parts if len(parts) > 1 else text) for index in self._encode_without_control(part)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text that a model wrote: content tokens are kept, control tokens left out."""
        kept = [index for index in ids if index not in self._control]
        return self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    """A pattern of these tokens, the longest first, that keeps what it splits at."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")
