"""Does the model see what is not there? Yes-or-no questions about the existence of objects (POPE, arXiv 2305.10355).

Rows are {"image", "question", "answer": "yes" | "no"} with an optional `category` (random, popular, adversarial).
A response says yes when it has the word yes and not the word no, and the other way round; else it is unclear, which
is wrong and neither a yes nor a no (the reading of VLMEvalKit, which also drops punctuation).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from internvl_chat.records.rows import shown
from tools.evaluation.accuracy import field_of, percent, percents
from tools.evaluation.answering import Answered, Vote
from tools.evaluation.questions import AskedQuestion
from tools.evaluation.statistics import Interval, bootstrap, wilson
from tools.reasoning_data_pipeline.answers.checker import Outcome, accepted_texts

_YES, _NO = frozenset({"yes", "是", "是的", "有"}), frozenset({"no", "不是", "否", "没有", "不"})
_WORD = re.compile(r"[a-z]+|不是|没有|是的|[是有否不]")


def polarity(text: str) -> bool | None:
    """True for a yes, False for a no, None where it is unclear."""
    words = set(_WORD.findall(text.lower()))
    says_yes, says_no = bool(words & _YES), bool(words & _NO)
    return says_yes if says_yes != says_no else None


def judge_probes(questions: Sequence[AskedQuestion], responses: Sequence[Sequence[str]]) -> list[Answered]:
    """Each probe with its one response; an unclear response is a format error.

    Raises:
        ValueError: the right answer of a probe is neither yes nor no.
    """
    return [_judge(question, response) for question, [response] in zip(questions, responses, strict=True)]


def _judge(question: AskedQuestion, response: str) -> Answered:
    said, wanted = polarity(response), _gold(question)
    outcome = Outcome.FORMAT_ERROR if said is None else Outcome.CORRECT if said == wanted else Outcome.WRONG
    return Answered(question, (response,), (outcome,), Vote(response, outcome, 1, False))


def _gold(question: AskedQuestion) -> bool:
    gold = polarity(" ".join(accepted_texts(question.prompt.answer)))
    if gold is None:
        answer = shown(question.prompt.answer)
        raise ValueError(f"probe {question.text!r}: its answer must be yes or no, not {answer}")
    return gold


def measure_probes(answered: Sequence[Answered], by: str = "category") -> dict[str, dict[str, Any]]:
    """Scores of all probes and by the values of a row field, as JSON values; see `score`."""
    groups: dict[str, list[tuple[bool, bool | None]]] = defaultdict(list)
    for one in answered:
        said = (_gold(one.question), polarity(one.responses[0]))
        groups["all"].append(said)
        if (value := field_of(one.question.prompt.extra, by)) is not None:
            groups[str(value)].append(said)
    return {name: score(said) for name, said in groups.items()}


def score(said: Sequence[tuple[bool, bool | None]]) -> dict[str, Any]:
    """Percent of right answers, precision, recall and F1 of yes, and how often yes was said.

    Args:
        said: (right answer, answer) of N >= 1 probes; an answer of None is unclear.
    """
    gold = np.array([right for right, _ in said])
    yes = np.array([answer is True for _, answer in said])
    right = int(sum(answer == wanted for wanted, answer in said))
    hits = int((gold & yes).sum())
    return {
        "percent": percent(right / len(said)),
        "interval": percents(wilson(right, len(said))),
        "questions": len(said),
        "correct": right,
        "unclear": sum(answer is None for _, answer in said),
        "f1": percent(float(f1(gold, yes))),
        "f1_interval": percents(_f1_interval(gold, yes)),
        "precision": percent(hits / max(1, int(yes.sum()))),
        "recall": percent(hits / max(1, int(gold.sum()))),
        "yes_rate": percent(float(yes.mean())),
    }


def f1(gold: np.ndarray, yes: np.ndarray, axis: int = -1) -> np.ndarray:
    """2 TP / (positives + yes), the harmonic mean of precision and recall; 0 where nothing is or is said to be there.

    Args:
        gold: (.., N) whether the object is there.
        yes: (.., N) whether the model says so.
        axis: of the probes.
    """
    found = 2.0 * (gold & yes).sum(axis)
    return found / np.maximum(1, gold.sum(axis) + yes.sum(axis))


def _f1_interval(gold: np.ndarray, yes: np.ndarray) -> Interval:
    """Bootstrap interval; of a set without any variation the value itself."""
    if len(gold) < 2 or (len(set(gold)) == 1 and len(set(yes)) == 1):
        value = float(f1(gold, yes))
        return Interval(value, value)
    return bootstrap([gold, yes], f1)
