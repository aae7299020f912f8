"""What answers with scored steps give: PRM and ORM conversations, and pairs of answers to one question.

VisualPRM (arXiv 2503.10291): a step is labelled by its score, a pair is told apart by its first step of unequal score.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE, STEP_BREAK, step_turns
from internvl_chat.records.judged import UNMEASURED
from internvl_chat.records.rows import Prompt, RecordError, Source, is_blank, parse_row, shown
from tools.reasoning_data_pipeline.answers.steps import ScoredStep
from tools.reasoning_data_pipeline.pairs.conversion import Conversion, Portion, RowFile, RowFiles, Tally
from tools.reasoning_data_pipeline.pairs.grouping import draw, question_key


def outcome_label(steps: Sequence[ScoredStep], threshold: float) -> str | None:
    """The label of a whole answer: that of its last step.

    Where early stopping left the last step unmeasured, no continuation of an earlier prefix came out right, so the
    estimate for the whole answer is 0 as well: '-'. None where nothing decides.
    """
    measured = [step for step in steps if step.measured]
    if not measured or (not steps[-1].measured and measured[-1].score > 0):
        return None
    return measured[-1].label(threshold)


def _conversation(row: Mapping[str, Any], turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A training conversation: the first turn carries the question; see `internvl_chat.records.judged`."""
    texts, labels = zip(*turns, strict=True)
    messages = [{"from": "system", "value": CRITIC_SYSTEM_MESSAGE}]
    for text, label in zip(step_turns(row["question"], texts), labels, strict=True):
        messages += [{"from": "human", "value": text}, {"from": "gpt", "value": label}]
    image = {"image": row["image"]} if row.get("image") else {}
    return {"id": -1, **image, "conversations": messages}


def prm_conversation(
    row: Mapping[str, Any], steps: Sequence[ScoredStep], *, threshold: float, early_stop: bool
) -> dict[str, Any] | None:
    """A conversation with a turn per step, up to the last measured one; None where none is measured.

    A step between them that was not measured stays, without a label: what comes after it builds on it.

    early_stop: end with the first '-'.
    """
    turns: list[tuple[str, str]] = []
    measured = 0
    for step in steps:
        label = step.label(threshold)
        turns.append((step.step, label or UNMEASURED))
        measured = len(turns) if step.measured else measured
        if early_stop and label == "-":
            break
    return _conversation(row, turns[:measured]) if measured else None


def orm_conversation(row: Mapping[str, Any], steps: Sequence[ScoredStep], *, threshold: float) -> dict[str, Any] | None:
    """A conversation of one turn that judges the whole answer; None where nothing decides."""
    label = outcome_label(steps, threshold)
    response = row.get("response") or STEP_BREAK.join(step.step for step in steps)
    return _conversation(row, [(response, label)]) if label else None


@dataclass(frozen=True)
class StepPair:
    """Two answers to one question whose steps agree before `step` and whose scores differ at it.

    chosen, rejected: indices of the answers; chosen_score > rejected_score, both measured at `step`.
    """

    chosen: int
    rejected: int
    step: int
    chosen_score: float
    rejected_score: float


def step_pairs(
    responses: Sequence[Sequence[ScoredStep]], *, threshold: float = 0.0, min_gap: float = 0.0
) -> Iterator[StepPair]:
    """Preference pairs from step scores: the first step where prefixes of equal parents differ in expected accuracy.

    The whole answers are compared, so the better one must also be labelled '+' at every step: it would be odd to
    prefer an answer for its first step whose last one is wrong.

    Args:
        responses: the scored steps of each answer to one question.
        threshold: scores above it are labelled '+'.
        min_gap: scores that differ by no more than this are taken as equal (they are estimates).
    """
    sound = [bool(steps) and all(step.label(threshold) == "+" for step in steps) for steps in responses]
    for first, second in combinations(range(len(responses)), 2):
        fork = _fork(responses[first], responses[second])
        if fork is None:
            continue
        worse, better = sorted((first, second), key=lambda i: responses[i][fork].score)
        low, high = responses[worse][fork], responses[better][fork]
        if sound[better] and low.measured and high.score - low.score > min_gap:
            yield StepPair(better, worse, fork, high.score, low.score)


def _fork(first: Sequence[ScoredStep], second: Sequence[ScoredStep]) -> int | None:
    """Index of the first step whose text differs; None where one answer only goes on longer."""
    steps = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in steps if one.step != other.step), None)


def read_steps(row: dict[str, Any], where: Source) -> list[ScoredStep]:
    """The scored steps of a row; RecordError if there are none or one is unusable."""
    entries = row.get("steps_with_score")
    if not isinstance(entries, list) or not entries:
        raise RecordError(*where, f"field 'steps_with_score' must be a list of steps, not {shown(entries)}")
    return [ScoredStep.from_row(entry, where) for entry in entries]


def scored_key(line: bytes, where: Source) -> str:
    """The key of a row of scored steps; RecordError with the reason if it is none."""
    row = parse_row(line, *where)
    prompt = Prompt.from_row(row, where, allow_no_answer=True)
    read_steps(row, where)
    if not isinstance(row.get("response", ""), str):
        raise RecordError(*where, f"field 'response' must be a string, not {shown(row['response'])}")
    return question_key(prompt.image, prompt.question, prompt.answer)


Answers = dict[str, tuple[dict[str, Any], list[ScoredStep]]]
"""Text of an answer -> its row and its scored steps."""


def convert(part: Portion, files: RowFiles) -> Tally:
    """Write the conversations and the pairs of a part, and count them."""
    counts = Tally()
    for group in part.groups():
        answers: Answers = {}
        for row in group.rows():
            steps = read_steps(row, Source("partition", 1))
            answers.setdefault(row.get("response") or STEP_BREAK.join(step.step for step in steps), (row, steps))
        counts.update(rows=len(group.lines), duplicates=len(group.lines) - len(answers), questions=1)
        if blank := [text for text in answers if is_blank(text)]:
            counts["empty_answers"] += len(blank)
        answers = {text: found for text, found in answers.items() if text not in blank}
        for row, steps in answers.values():
            write_conversations(row, steps, part.args, files["conversations"], counts)
        write_pairs(answers, part.args, group.key, files["pairs"], counts)
    return counts


def write_pairs(answers: Answers, args: argparse.Namespace, key: str, file: RowFile, counts: Tally) -> None:
    """Write the pairs among the answers to one question, and count them."""
    texts, scored = list(answers), [steps for _, steps in answers.values()]
    found = list(step_pairs(scored, threshold=args.mc_threshold, min_gap=args.min_gap))
    for pair in draw(found, args.num_pairs_per_key, key):
        row, _ = answers[texts[pair.chosen]]
        image = {"image": row["image"]} if row.get("image") else {}
        answer = {"answer_gt": row["answer"]} if "answer" in row else {}
        scores = {"step": pair.step, "chosen_score": pair.chosen_score, "rejected_score": pair.rejected_score}
        sides = {"chosen": texts[pair.chosen], "rejected": texts[pair.rejected]}
        reason = {"rejected_verdict": "lower step score"}
        file.write({**image, "question": row["question"], **sides, **answer, **scores, **reason})
        counts["pairs"] += 1


def write_conversations(
    row: dict[str, Any], steps: list[ScoredStep], args: argparse.Namespace, file: RowFile, counts: Tally
) -> None:
    """Write the PRM conversation of one answer, and its ORM conversation when asked for.

    A step without text, of an answer with several blank lines in a row, is not shown: nor will it be in scoring.
    """
    if args.raw_question:
        row = {**row, "question": row.get("question_orig") or row["question"]}
    texts = [step for step in steps if not is_blank(step.step)]
    if len(texts) < len(steps):
        counts["steps without text"] += len(steps) - len(texts)
    judged = prm_conversation(row, texts, threshold=args.mc_threshold, early_stop=args.early_stop)
    _write_judged("prm", judged, [step.score if step.measured else None for step in texts], file, counts)
    if args.include_orm_data:
        # The score of an answer is that of its last step, 0 where early stopping left it unmeasured.
        judged = orm_conversation(row, steps, threshold=args.mc_threshold)
        _write_judged("orm", judged, [steps[-1].score], file, counts)


def _write_judged(
    kind: str, conversation: dict[str, Any] | None, scores: list[float | None], file: RowFile, counts: Tally
) -> None:
    """Write a conversation with the scores of its steps, the first of `scores`, and count its labels."""
    if conversation is None:
        counts[f"{kind} unmeasured"] += 1
        return
    labels = [turn["value"] for turn in conversation["conversations"] if turn["from"] == "gpt"]
    counts.update(f"{kind} {label}" for label in labels if label)
    if unmeasured := labels.count(UNMEASURED):
        counts[f"{kind} steps without label"] += unmeasured
    file.write({**conversation, "scores": scores[: len(labels)]})
    counts["conversations"] += 1


STEP_SCORES = Conversion(
    outputs={"conversations": "raw/{}_prm.jsonl", "pairs": "raw/{}_pairs_step_scores.jsonl"},
    metas={"meta.json": ("pairs",), "prm_meta.json": ("conversations",)},
    find_key=scored_key,
    convert=convert,
    options=("mc_threshold", "early_stop", "include_orm_data", "raw_question", "num_pairs_per_key", "min_gap"),
)
