"""Are two questions the same one, spelled differently? MinHash proposes, words decide.

Questions are normalised first (case, accents, punctuation, spaces, `<image>`). MinHash signatures of their letter
trigrams (datasketch) propose pairs in bands (locality-sensitive hashing; Broder 1997). A pair is the same question if
numbers and single letters stand in it in the same order and all other words are equal but for a slip of the pen: "side
AB is 7" and "side AC is 7" are two questions, and so are "the larger" and "the smaller", however near their letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from datasketch import MinHash
from rapidfuzz.distance import DamerauLevenshtein

BANDS, ROWS = 20, 4  # of a signature; proposes 99.6 % of pairs with a Jaccard of 0.7
KEYS = BANDS + 1
GRAM = 3  # letters
WORD_GRAM = 13  # words of the n-grams by which leaks are told
IGNORED = frozenset(
    ("a", "an", "and", "are", "be", "in", "is", "it", "of", "on", "please", "s", "that", "the", "this", "to")
)
IGNORED_LETTERS = frozenset("".join(sorted(word)) for word in ("the", "that", "this", "and", "please"))  # teh, adn
SHORT_WORD = 4  # letters from which a word may be misspelled
LONG_WORD = 5  # letters from which it may be so twice, behind an equal first letter, by other places of its letters
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_PLACEHOLDER = re.compile(r"<(?:image|video)[ _]?\d*>", re.IGNORECASE)
_HAN = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")


def words(text: str) -> list[str]:
    """The words of a text: small letters, without accents and punctuation; a Chinese character is a word."""
    plain = unicodedata.normalize("NFKD", _PLACEHOLDER.sub(" ", text)).casefold()
    plain = "".join(char for char in plain if not unicodedata.combining(char)) if not plain.isascii() else plain
    return _WORD.findall(_HAN.sub(r" \1 ", plain))


def fixed_words(question: Sequence[str]) -> tuple[str, ...]:
    """Numbers and single letters in their order: what makes another question of the same words."""
    return tuple(word for word in question if (word[0].isdigit() or len(word) == 1) and word not in IGNORED)


def same_question(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two questions, as `words`, are the same but for spelling."""
    if fixed_words(one) != fixed_words(other):
        return False
    left, right = (Counter(word for word in words if not is_ignored(word)) for words in (one, other))
    only_left, only_right = list((left - right).elements()), list((right - left).elements())
    if not left or not right or len(only_left) != len(only_right):
        return "".join(one) == "".join(other)  # spaces are spelling, too
    for word in only_left:
        twin = next((found for found in only_right if is_slip(word, found)), None)
        if twin is None:
            return "".join(one) == "".join(other)
        only_right.remove(twin)
    return True


def is_ignored(word: str) -> bool:
    """Whether a word makes no other question, well spelled or not."""
    return word in IGNORED or "".join(sorted(word)) in IGNORED_LETTERS


def is_slip(one: str, other: str) -> bool:
    """Whether a word is another one misspelled: by one slip, or by two that leave its letters, but for one."""
    shorter = min(len(one), len(other))
    if shorter < SHORT_WORD or one.isdigit() or other.isdigit():
        return False
    letters = Counter(one), Counter(other)
    shuffled = ((letters[0] - letters[1]) + (letters[1] - letters[0])).total() <= 1
    most = 2 if shorter >= LONG_WORD and one[0] == other[0] and shuffled else 1
    return DamerauLevenshtein.distance(one, other, score_cutoff=most) <= most


def band_keys(questions: Sequence[Sequence[str]]) -> Iterator[np.ndarray]:
    """Keys (KEYS,) uint64 of each question, given as `words`: two that share one are worth a comparison.

    BANDS keys of the signature, and one of the initials of its words, which finds short questions with two slips.
    Numbers and single letters are part of every key: a template's questions would else all share theirs.
    """
    sketches = MinHash.generator(map(_grams, questions), num_perm=BANDS * ROWS, hashfunc=xxhash.xxh32_intdigest)
    for question, sketch in zip(questions, sketches, strict=True):
        fixed = xxhash.xxh3_64_intdigest("\0".join(fixed_words(question)).encode())
        parts = [part.tobytes() for part in np.ascontiguousarray(sketch.hashvalues).reshape(BANDS, ROWS)]
        parts.append("".join(sorted(word[0] for word in question if not is_ignored(word))).encode())
        keys = (xxhash.xxh3_64_intdigest(part, seed=fixed ^ band) for band, part in enumerate(parts))
        yield np.fromiter(keys, np.uint64, KEYS)


def _grams(question: Sequence[str]) -> list[bytes]:
    text = "".join(word for word in question if not is_ignored(word)) or "".join(question)
    return [text[first : first + GRAM].encode() for first in range(max(1, len(text) - GRAM + 1))]


def word_grams(question: Sequence[str]) -> list[int]:
    """64-bit hashes of its n-grams of WORD_GRAM words; of a shorter question none."""
    return [
        xxhash.xxh3_64_intdigest(" ".join(question[first : first + WORD_GRAM]).encode())
        for first in range(len(question) - WORD_GRAM + 1)
    ]


def text_key(question: Sequence[str]) -> int:
    """A 64-bit hash of a normalised question."""
    return xxhash.xxh3_64_intdigest(" ".join(question).encode())
