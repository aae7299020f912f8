"""Preference pairs from answers that a reward model has scored, or that a judge has compared.

    python tools/reasoning_data_pipeline/reward_pairs.py --data-dir scored --save-dir pairs --min-margin 0.2

Reads every *.jsonl below --data-dir; files of one name are one data set. A row is of one of these kinds, besides its
`image` and `question`:

    {"response": "...", "reward": 0.7}           one answer, as the sampling pipeline writes it, with its reward
    {"responses": ["...", "..."], "winner": 0}   what a judge preferred, by place; null where none is better

Two answers to a question whose rewards are at least --min-margin apart make a pair; equal answers have the mean of
their rewards. A winner makes a pair with every other answer of its row. Writes below --save-dir:

    raw/<name>_pairs_rewards.jsonl  the pairs, with both rewards
    meta.json                       the mixture of them, ready for training
    summary.json, rejects.jsonl     what was counted, and the rows that could not be used
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from statistics import fmean
from typing import Any, BinaryIO, NamedTuple

import orjson

from internvl_chat.records.durable import json_line
from internvl_chat.records.rows import Prompt, RecordError, Source, parse_row, shown
from tools.reasoning_data_pipeline.pairs.drawing import Group, draw, question_key
from tools.reasoning_data_pipeline.pairs.groups import GroupConversion, add_conversion_flags, run_conversion

OUTPUTS = {"pairs": "raw/{}_pairs_rewards.jsonl"}
METAS = {"meta.json": "pairs"}
OPTIONS = ("min_margin", "num_pairs_per_key")


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
    response, reward = row.get("response"), row.get("reward")
    if not isinstance(response, str) or not response.strip():
        raise RecordError(*where, f"field 'response' must be an answer, not {shown(response)}")
    if not isinstance(reward, int | float) or isinstance(reward, bool) or not math.isfinite(reward):
        raise RecordError(*where, f"field 'reward' must be a number, not {shown(reward)}")
    return response, float(reward)


def judged_pairs(row: Mapping[str, Any], where: Source) -> list[ScoredPair]:
    """The winner of a row with each other answer of it; RecordError if they are unusable."""
    responses, winner = row["responses"], row.get("winner")
    if not isinstance(responses, list) or len(responses) < 2:
        raise RecordError(*where, f"field 'responses' must be a list of two answers or more, not {shown(responses)}")
    if bad := [text for text in responses if not isinstance(text, str) or not text.strip()]:
        raise RecordError(*where, f"field 'responses' must hold answers, not {shown(bad[0])}")
    if winner is None:
        return []
    if not isinstance(winner, int) or isinstance(winner, bool) or not 0 <= winner < len(responses):
        raise RecordError(*where, f"field 'winner' must be in 0..{len(responses) - 1} or null, not {shown(winner)}")
    chosen = responses[winner]
    return [ScoredPair(chosen, text, 1.0, 0.0) for text in dict.fromkeys(responses) if text != chosen]


def pairs_by_margin(rewards: Mapping[str, float], min_margin: float) -> Iterator[ScoredPair]:
    """All pairs of answers whose rewards are at least `min_margin` apart, and not equal."""
    for (chosen, high), (rejected, low) in permutations(rewards.items(), 2):
        if high > low and high - low >= min_margin:
            yield ScoredPair(chosen, rejected, high, low)


def convert_group(args: argparse.Namespace, group: Group, files: Mapping[str, BinaryIO], counts: Counter[str]) -> None:
    """Write the pairs of one question, and count them."""
    rows = [orjson.loads(line) for line in group.lines]
    where = Source("partition", 1)
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    found: list[ScoredPair] = []
    for row in rows:
        if "responses" in row:
            found += judged_pairs(row, where)
        else:
            response, reward = scored_answer(row, where)
            rewards[response].append(reward)
    found += pairs_by_margin({text: fmean(given) for text, given in rewards.items()}, args.min_margin)
    found = list(dict.fromkeys(found))
    counts.update(rows=len(rows), questions=1, questions_without_a_pair=not found)
    fields = {name: rows[0][name] for name in ("image", "question") if rows[0].get(name)}
    if "answer" in rows[0]:
        fields["answer_gt"] = rows[0]["answer"]
    for pair in draw(found, args.num_pairs_per_key, group.key):
        files["pairs"].write(json_line({**fields, **pair._asdict()}))
        counts["pairs"] += 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_conversion_flags(parser)
    add = parser.add_argument
    add("--min-margin", type=float, default=0.0, help="least difference of rewards (default: any)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert this rank's data sets and publish what is finished."""
    run_conversion(GroupConversion(OUTPUTS, METAS, scored_key, convert_group, OPTIONS), build_parser(), arguments)


if __name__ == "__main__":
    main()
