"""Options as answers: one letter, alone, with the option's text or in a sentence; several letters; letters in order.

A letter is an option only where nothing else can be meant: `C - dog` is option C, `k - 5` and `(z)^2` are formulas, and
`BADC`, out of the alphabet's order, is an order or a word, no choice of several.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Choice:
    """An option: its upper-case letter and, where given, its text ("" without)."""

    letter: str
    text: str = ""


@dataclass(frozen=True)
class Choices:
    """Several options chosen together: their letters, sorted, and as written."""

    letters: tuple[str, ...]
    written: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Order:
    """Letters in an order that means something, such as CDAB."""

    letters: tuple[str, ...]


_LETTER = re.compile(r"[(\[]?\s*([A-Ja-j])\s*[)\]]?")
_MARKED = re.compile(
    r"(?:\(([A-Za-z])\)|\[([A-Z])\]|([A-Ja-j])\s?[.)、]|([A-J])\s?:)\s*(?![-+*/^=_<>≤≥≠|!',;)\]])(\S.*)", re.DOTALL
)
_LETTER_AND_WORDS = re.compile(r"([A-J]) - (?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|lim)\b)([^\W\d_]{3,}.*)", re.DOTALL)
_LETTER_AND_GLOSS = re.compile(r"([A-J])(?: \(([^(),=]+)\)|\(([^()]*(?:[^\W\d_]{2}|[^\x00-\x7f])[^()]*)\))")
_LETTERS = re.compile(
    r"(?:[Bb]oth )?\(?[A-H]\)?(?:\s*(?:,|、|;|&|和|\band\b)\s*(?:and\s)?\s*\(?[A-H]\)?)+|[A-H]{2,8}|[A-H](?: [A-H])+"
)
_ORDER = re.compile(r"\(?[A-J]\)?(?:\s*(?:→|-->?|=>)\s*\(?[A-J]\)?){2,}|[A-J](?:-[A-J]){2,}")
_WORD_START = re.compile(r"[^\W\d_]{2}|[^\x00-\x7f]")
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])|[(\[][A-Za-z][)\]]")
_RUN = re.compile(r"[A-J]{2,10}")
_SENTENCE = re.compile(
    r"(?:.*[,.;:] )?(?:(?:and|so|thus|hence|therefore|then|finally|overall|consequently|clearly|in conclusion)\b,? ?)*"
    r"(?:(?:the|my|our) )?(?:(?:correct|right|best|final|proper|only|appropriate|most \w+) )*"
    r"(?:(?:answer|option|choice|letter|statement|one) )?(?:(?:is|must be|should be|would be|will be|has to be)[: ]+)?"
    r"(?:(?:i|we)(?:'d| would| will|'ll)? (?:choose|pick|select|go with|say|answer) |"
    r"(?:it|this|that)(?:'s| is| must be| has to be| should be| would be) |"
    r"(?:choose|select|pick|go with|leaving|leaves) )?"
    r"(?:only )?(?:(?:option|choice|letter|answer) )?(?-i:\((?P<bracketed>[A-J])\)|(?P<bare>[A-J]))"
    r"(?: is (?:the )?(?:(?:only|most) )?(?:correct|right|best|final|true|appropriate|answer|one)"
    r"(?: (?:answer|option|choice|one|statement|letter))?)?"
    r"(?:[,.;:]? (?:because|since|due to|given that)\b.*|[,.;] ?(?:as|for|which)\b.*|"
    r", (?:and )?not (?:option )?(?-i:\(?[A-J]\)?))?",
    re.IGNORECASE | re.DOTALL,
)
_CHINESE_SENTENCE = re.compile(
    r"(?:.*[,。;:])?(?:因此|所以|故|综上|可知|应该?|正确|最终|本题|答案|选项|选择|选|是|为|:|\s)+\(?([A-J])\)?"
    r"(?:选?项)?(?:正确|符合题意)?"
)
_OPENS_SENTENCE = re.compile(r"[A-J](?: (?:is|as|because|since|due|given)\b|[,.;:] )")
_DENIED = re.compile(r"\b(?:not|never|neither|nor|or|except|but|wrong|incorrect|false)\b|n't|不|错", re.IGNORECASE)
_CLAIM_END = re.compile(r",|\b(?:because|since|as|for|due to|given that|which)\b", re.IGNORECASE)
MAX_SENTENCE_CHARS = 300


def read_choice(text: str) -> Choice | Choices | Order | None:
    """The option or options that all of `text`, normalised, names; None for anything else."""
    if len(text) < 4:
        letter = _LETTER.fullmatch(text)
        if letter:
            return Choice(letter[1].upper())
    if _RUN.fullmatch(text):
        return _read_several(text)
    if not _LONE_LETTER.search(text):
        return None
    return _read_several(text) or _read_with_text(text) or _read_sentence(text)


def _read_several(text: str) -> Choices | Order | None:
    if _ORDER.fullmatch(text):
        return Order(tuple(re.findall("[A-J]", text)))
    if _RUN.fullmatch(text) and len(set(text)) == len(text) and list(text) != sorted(text):
        return Order(tuple(text))
    if not _LETTERS.fullmatch(text):
        return None
    letters = re.findall("[A-H]", re.sub("^[Bb]oth ", "", text))
    return Choices(tuple(sorted(letters)), tuple(letters)) if len(set(letters)) == len(letters) else None


def _read_with_text(text: str) -> Choice | None:
    marked = _MARKED.fullmatch(text)
    if marked:
        letter = next(filter(None, marked.groups()[:4]))
        tight = text[2:3] in ")]" and not text[3:4].isspace() and letter.islower()
        if letter.upper() <= "J" and not (tight and not _WORD_START.match(marked[5])):
            return Choice(letter.upper(), marked[5].strip())
        return None
    with_words = _LETTER_AND_WORDS.fullmatch(text)
    if with_words:
        return Choice(with_words[1], with_words[2].strip())
    gloss = _LETTER_AND_GLOSS.fullmatch(text)
    return Choice(gloss[1], (gloss[2] or gloss[3]).strip()) if gloss else None


def _read_sentence(text: str) -> Choice | None:
    """The one option that a sentence settles on; what it gives as a reason may speak of the others."""
    if " " not in text and text.isascii() or len(text) > MAX_SENTENCE_CHARS:
        return None
    match = _SENTENCE.fullmatch(text) if text.isascii() else _CHINESE_SENTENCE.fullmatch(text)
    if match is None:
        return None
    letter = match[1] or match[2] if text.isascii() else match[1]
    start = match.start("bare") if text.isascii() and match["bare"] else match.start(1)
    if text.isascii() and start == 0 and not _OPENS_SENTENCE.match(text):
        return None
    claim = _CLAIM_END.split(text[max(text.rfind(mark, 0, start) for mark in ",.;:") + 1 :])[0]
    return None if _DENIED.search(claim) else Choice(letter)
