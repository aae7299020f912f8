"""Answers read off documents: the text itself, but for slips of reading inside a long word.

ANLS forgives one letter in ten, and one letter may be a sign, a name, a currency or the opposite. So every word counts:
numbers, signs and short words must be the same, and a longer word may differ by one letter inside it.
"""

from __future__ import annotations

import re

from rapidfuzz.distance import Levenshtein

from tools.reasoning_data_pipeline.answers.opposites import are_opposites
from tools.reasoning_data_pipeline.answers.scores import ANLS_CORRECT, anls

MIN_SLIP_LETTERS = 6
"""Shorter words are too often another word when one letter changes."""
LONGEST_WORD = 40
"""Longer runs of letters are no words."""
_MARKS_KEPT = re.compile(r"[^\w\s.,;:'\"!?()\[\]/-]|(?<!\w)-(?=[\d.$€£¥])|\((?=[\d$€£¥.,]+\))|(?<=\d)[/:-](?=\d)")
_EDGE = " .,;:'\"!?()[]-/"
_CASE_OF_LETTER = re.compile(r"[A-Za-z]")
# Words of six letters and more that another word becomes when one letter inside changes.
_PAIRS = """
county country | contract contact | former farmer | morning mourning | causal casual | desert dessert
statue statute | lesser lessor | lessee lesser | through thorough | carrier courier | cartoon carton
marital martial | personal personnel | thomson thompson | johnson johnston | anderson andersen | hansen hanson
peterson petersen | larson larsen | stewart steward | manual annual | parity purity | humor humour | formal format
bought brought | hardly harshly | planning planing | interstate intrastate | perspective prospective
prescribe proscribe | assure assume | inspect insect | patient patent | patents patients | corporate cooperate
deceased diseased | decease disease | sixteen sixteenth | expend expand | adverse averse | elicit illicit
ingenious ingenuous | moments monuments | relation revelation | principle principal
"""
_OTHER_WORDS = frozenset(frozenset(pair.split()) for line in _PAIRS.strip().splitlines() for pair in line.split(" | "))


def documents_agree(predicted: str, gold: str) -> bool:
    """Whether `predicted` is `gold` but for case, spaces, end marks and slips inside long words; both normalised."""
    if not gold or not predicted:
        return predicted == gold
    if _folded(predicted) == _folded(gold):
        return not _letters_differ(predicted, gold)
    if anls(predicted, (gold,), ANLS_CORRECT) < ANLS_CORRECT or _signs(predicted) != _signs(gold):
        return False
    words, others = _words(predicted), _words(gold)
    if len(words) != len(others):
        return "".join(words) == "".join(others)
    return all(map(_same_word, words, others)) and not are_opposites(" ".join(words), " ".join(others))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _letters_differ(first: str, second: str) -> bool:
    """Whether a lone letter changes its case: section a and section A are one, but m and M alone are not."""
    return len(first) == 1 and first != second and not _CASE_OF_LETTER.fullmatch(first)


def _signs(text: str) -> list[str]:
    """The marks that mean something, in order: signs, currencies, percent, what stands between digits."""
    return _MARKS_KEPT.findall(text)


def _words(text: str) -> list[str]:
    """Words without the marks around them; R.J. is one word, and so are 12.5 and 12,500."""
    parts = (part.strip(_EDGE) for part in re.split(r"\s+|(?<=[^\W\d_]{2})[-/,](?=[^\W\d_]{2})", text.casefold()))
    return [part if any(map(str.isdigit, part)) else re.sub(r"[.'\"]", "", part) for part in parts if part]


def _same_word(word: str, gold: str) -> bool:
    """Whether a word is the other but for one letter inside it that makes no other word of it."""
    if word == gold:
        return True
    letters = min(len(word), len(gold))
    if letters < MIN_SLIP_LETTERS or not (word.isalpha() and gold.isalpha()) or frozenset((word, gold)) in _OTHER_WORDS:
        return False
    if not (word[0] == gold[0] and word[-2:] == gold[-2:] or letters > LONGEST_WORD):
        return False
    return Levenshtein.distance(word, gold, score_cutoff=1) <= 1 and not are_opposites(word, gold)
