"""Answers with scored steps to training data: PRM and ORM conversations, and preference pairs.

    python tools/reasoning_data_pipeline/visualprm_data_pipeline_postprocess.py --data-dir out --save-dir prm \\
        --mc-threshold 0.0 --early-stop --include-orm-data

Reads every *.jsonl below --data-dir, rows {image, question, answer, response, steps_with_score: [{step, score,
num_mc_correct, num_mc_total}]}. Files of one name are one data set. Writes below --save-dir:

    raw/<name>_prm.jsonl                 one conversation per answer, a turn per step: "+" above the threshold, else "-"
    raw/<name>_pairs_step_scores.jsonl   answers to one question, told apart by their first step of unequal score
    meta.json, prm_meta.json             the pairs, and the conversations, ready for training
    summary.json, rejects.jsonl          what was counted, and the rows that could not be used

A step that was not measured has no label: its conversation ends before it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import orjson

from internvl_chat.records.durable import json_line
from internvl_chat.records.rows import Prompt, RecordError, Source, parse_row, shown
from tools.reasoning_data_pipeline.answers.steps import (
    STEP_BREAK,
    ScoredStep,
    orm_conversation,
    prm_conversation,
    step_pairs,
)
from tools.reasoning_data_pipeline.pairs.drawing import Group, draw, question_key
from tools.reasoning_data_pipeline.pairs.groups import GroupConversion, add_conversion_flags, run_conversion

OUTPUTS = {"conversations": "raw/{}_prm.jsonl", "pairs": "raw/{}_pairs_step_scores.jsonl"}
METAS = {"meta.json": "pairs", "prm_meta.json": "conversations"}


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


def convert_group(args: argparse.Namespace, group: Group, files: Mapping[str, BinaryIO], counts: Counter[str]) -> None:
    """Write the conversations and the pairs of one question, and count them."""
    answers: dict[str, tuple[dict[str, Any], list[ScoredStep]]] = {}
    for line in group.lines:
        row = orjson.loads(line)
        steps = read_steps(row, Source("partition", 1))
        answers.setdefault(row.get("response") or STEP_BREAK.join(step.step for step in steps), (row, steps))
    counts.update(rows=len(group.lines), duplicates=len(group.lines) - len(answers), questions=1)
    for row, steps in answers.values():
        write_conversations(row, steps, args, files["conversations"], counts)
    found = list(
        step_pairs([steps for _, steps in answers.values()], threshold=args.mc_threshold, min_gap=args.min_gap)
    )
    texts, row = list(answers), orjson.loads(group.lines[0])
    for pair in draw(found, args.num_pairs_per_key, group.key):
        image = {"image": row["image"]} if row.get("image") else {}
        answer = {"answer_gt": row["answer"]} if "answer" in row else {}
        scores = {"step": pair.step, "chosen_score": pair.chosen_score, "rejected_score": pair.rejected_score}
        sides = {"chosen": texts[pair.chosen], "rejected": texts[pair.rejected]}
        reason = {"rejected_verdict": "lower step score"}
        files["pairs"].write(json_line({**image, "question": row["question"], **sides, **answer, **scores, **reason}))
        counts["pairs"] += 1


def write_conversations(
    row: dict[str, Any], steps: list[ScoredStep], args: argparse.Namespace, file: BinaryIO, counts: Counter[str]
) -> None:
    """Write the PRM conversation of one answer, and its ORM conversation when asked for."""
    made = {"prm": prm_conversation(row, steps, threshold=args.mc_threshold, early_stop=args.early_stop)}
    if args.include_orm_data:
        made["orm"] = orm_conversation(row, steps, threshold=args.mc_threshold)
    for kind, conversation in made.items():
        if conversation is None:
            counts[f"{kind} unmeasured"] += 1
            continue
        file.write(json_line(conversation))
        counts["conversations"] += 1
        counts.update(f"{kind} {turn['value']}" for turn in conversation["conversations"] if turn["from"] == "gpt")


OPTIONS = ("mc_threshold", "early_stop", "include_orm_data", "num_pairs_per_key", "min_gap")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_conversion_flags(parser)
    add = parser.add_argument
    add("--mc-threshold", type=float, default=0.0, help="a step is right if its score is above (default: %(default)s)")
    add("--early-stop", action="store_true", help="end a conversation with its first wrong step")
    add("--include-orm-data", action="store_true", help="add a conversation of one turn that judges the whole answer")
    add("--min-gap", type=float, default=0.25, help="scores that differ by no more are equal: they are estimates, of "
        "standard error 0.125 at 16 continuations (default: %(default)s)")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert this rank's data sets and publish what is finished."""
    run_conversion(GroupConversion(OUTPUTS, METAS, scored_key, convert_group, OPTIONS), build_parser(), arguments)


if __name__ == "__main__":
    main()
