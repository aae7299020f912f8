"""The cheap tests before costly patterns: each holds for every text that its pattern matches."""

import json
from pathlib import Path

import pytest

from tools.reasoning_data_pipeline.answers import formulas, items, quantities, spans, text

CASES = Path(__file__).parents[3] / "answers"
NAMES = ("golden_check_answer.jsonl", "kinds.jsonl", "own_kinds.jsonl")


PRECHECKS = {
    "answer phrase": (lambda answer: any(word in answer.lower() for word in text._PHRASE_WORDS), text._PHRASE.match),
    "is correct": (lambda answer: answer[-1:] in text._TAIL_ENDS, text._TAIL.search),
    "mathematics": (text._OPERATOR.search, text._MATHEMATICAL.search),
    "abbreviation": (lambda answer: not text._MARKS.isdisjoint(answer), text._ABBREVIATION.search),
    "inner marks": (lambda answer: not text._MARKS.isdisjoint(answer), text._INNER_MARKS.search),
    "separator": (items._SEPARATOR_MARK.search, items._SEPARATOR.search),
    "separator start": (lambda answer: answer[:1] in items._SEPARATOR_STARTS, items._SEPARATOR.match),
    "respectively": (items._RESPECTIVE_WORD.search, items._RESPECTIVELY.search),
    "range": (lambda answer: spans._START.match(answer.strip()), spans._FROM_TO.fullmatch),
    "range with a hyphen": (spans._START.match, spans._HYPHENED.fullmatch),
    "size": (spans._START.match, spans._SIZES.fullmatch),
    "unit": (formulas._UNIT_PLACE.search, formulas._FORMULA_WITH_UNIT.fullmatch),
    "power of ten": (lambda answer: answer.startswith(("10", "-10")), quantities._POWER_OF_TEN.fullmatch),
}
OWN = (
    "So the Answer is: 5", "the result is 5", "solution = 5", "结果是 3", "答案为 3",
    "x is the right choice", "B项", "n/a",
    "3 & 4", "4∪5", "3 or 7", "7、8", "1; 2", "1和2", "1或2", "3 and 4 in this order", "分别为1和2", "依次是1和2",
    "from 3 to 4", "US$3-US$4", "3x4", "在1到2", "-10^5", "10**-3", "x square cm", "5! cm", "a - 3",
)  # fmt: skip


def answers():
    """Normalised texts of all cases, and the short ones from every character on."""
    rows = [json.loads(line) for name in NAMES for line in (CASES / name).read_text(encoding="utf-8").splitlines()]
    found = {str(value)[:200] for row in rows for value in row.values()} | set(OWN)
    plain = {text.normalise(answer) for answer in found} | set(OWN)
    return sorted(plain | {answer[at:] for answer in plain if len(answer) < 40 for at in range(len(answer))})


@pytest.fixture(scope="module")
def known():
    return answers()


@pytest.mark.parametrize("name", PRECHECKS)
def test_no_text_that_a_pattern_matches_is_kept_from_it(known, name):
    may_match, match = PRECHECKS[name]
    matched = [answer for answer in known if match(answer)]
    assert matched
    assert [answer for answer in matched if not may_match(answer)] == []
