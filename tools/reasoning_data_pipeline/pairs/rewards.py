"""Pairs of answers to one question that a reward model has scored, or that a judge has compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from statistics import fmean
from typing import Any, NamedTuple

from internvl_chat.records.rows import Prompt, RecordError, Source, is_blank, parse_row, shown
from tools.reasoning_data_pipeline.pairs.conversion import Conversion, Portion, RowFiles, Tally
from tools.reasoning_data_pipeline.pairs.grouping import draw, question_key


class ScoredPair(NamedTuple):
    """Two answers to a question and their rewards; of a judge's verdict 1 and 0."""

    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float


def scored_key(line: bytes, where: Source) -> str:
    """The key of a scored or judged row; RecordError with the reason if it is none."""
    row = parse_row(line, *where)
    prompt = Prompt.from_row(row, where, allow_no_answer=True)
    (judged_pairs if "responses" in row else scored_answer)(row, where)
    return question_key(prompt.image, prompt.question, prompt.answer)


def scored_answer(row: Mapping[str, Any], where: Source) -> tuple[str, float]:
    """The answer of a row and its reward; RecordError if one of them is unusable."""
    response, reward = row.get("response"), row.get("reward", row.get("score"))
    if not isinstance(response, str) or is_blank(response):
        raise RecordError(*where, f"field 'response' must be an answer, not {shown(response)}")
    if not isinstance(reward, int | float) or isinstance(reward, bool) or not math.isfinite(reward):
        raise RecordError(*where, f"field 'reward' must be a number, not {shown(reward)}")
    return response, float(reward)


def judged_pairs(row: Mapping[str, Any], where: Source) -> list[ScoredPair]:
    """The winner of a row with each other answer of it that is not empty; RecordError if they are unusable."""
    responses, winner = row["responses"], row.get("winner")
    if not isinstance(responses, list) or len(responses) < 2:
        raise RecordError(*where, f"field 'responses' must be a list of two answers or more, not {shown(responses)}")
    if bad := [text for text in responses if not isinstance(text, str)]:
        raise RecordError(*where, f"field 'responses' must hold answers, not {shown(bad[0])}")
    if winner is None:
        return []
    if not isinstance(winner, int) or isinstance(winner, bool) or not 0 <= winner < len(responses):
        raise RecordError(*where, f"field 'winner' must be in 0..{len(responses) - 1} or null, not {shown(winner)}")
    chosen = responses[winner]
    if is_blank(chosen):
        raise RecordError(*where, f"field 'winner' is {winner}, an empty answer: {shown(chosen)}")
    others = (text for text in dict.fromkeys(responses) if text != chosen and not is_blank(text))
    return [ScoredPair(chosen, text, 1.0, 0.0) for text in others]


def pairs_by_margin(rewards: Mapping[str, float], min_margin: float) -> Iterator[ScoredPair]:
    """All pairs of answers whose rewards are at least `min_margin` apart, and not equal."""
    for (chosen, high), (rejected, low) in permutations(rewards.items(), 2):
        if high > low and high - low >= min_margin:
            yield ScoredPair(chosen, rejected, high, low)


def convert(part: Portion, files: RowFiles) -> Tally:
    """Write the pairs of a part, and count them."""
    counts = Tally()
    for group in part.groups():
        rows = group.rows()
        found = scored_pairs(rows, part.args.min_margin)
        counts.update(rows=len(rows), questions=1, questions_without_a_pair=not found)
        if blank := sum(is_blank(text) for row in rows for text in row.get("responses", ())):
            counts["empty_answers"] += blank
        fields = _fields_of(rows[0])
        for pair in draw(found, part.args.num_pairs_per_key, group.key):
            files["pairs"].write({**fields, **pair._asdict()})
            counts["pairs"] += 1
    return counts


def _fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the pairs of a question share."""
    fields = {name: row[name] for name in ("image", "question") if row.get(name)}
    return {**fields, "answer_gt": row["answer"]} if "answer" in row else fields


def scored_pairs(rows: Sequence[Mapping[str, Any]], min_margin: float) -> list[ScoredPair]:
    """The different pairs that the rows of one question give."""
    where = Source("partition", 1)
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    found: list[ScoredPair] = []
    for row in rows:
        if "responses" in row:
            found += judged_pairs(row, where)
        else:
            response, reward = scored_answer(row, where)
            rewards[response].append(reward)
    found += pairs_by_margin({text: fmean(given) for text, given in rewards.items()}, min_margin)
    return list(dict.fromkeys(found))


REWARDS = Conversion(
    outputs={"pairs": "raw/{}_pairs_rewards.jsonl"},
    metas={"meta.json": ("pairs",)},
    find_key=scored_key,
    convert=convert,
    options=("min_margin", "num_pairs_per_key"),
)
