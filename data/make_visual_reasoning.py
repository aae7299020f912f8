"""Draw the small visual-reasoning world: pictures, and rows for every stage from fine-tuning to evaluation.

    python data/make_visual_reasoning.py --out work_dirs/quickstart/data

Held-out pictures never occur in training, whatever the seed (see `tools/visual_reasoning/scenes.py`). Files in --out:

    images/*.png
    practice.jsonl                              fine-tuning: steps of reasoning, many in a row, without pictures
    look_{describe,ask}.jsonl                   fine-tuning: what is in the picture, questions about what is seen
    reason.jsonl, direct.jsonl                  step-by-step answers, some careless; direct answers to such questions
    sft.json                                    all of these
    pairs.jsonl and pairs.json                  preference pairs: right steps, and careless ones
    train_en_prompts.jsonl                      questions of the pairs with their answers, for the samplers
    held_out_en_prompts.jsonl                   held-out questions with their answers
    held_out_en_direct.jsonl                    the same questions, to be answered in a word
    held_out_en_probes.jsonl                    of the pictures of shapes: whether a thing is there
    held_out_pairs.jsonl and held_out_pairs.json  held-out preference pairs
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from internvl_chat.records.meta import DatasetSpec
from internvl_chat.run.bars import track
from internvl_chat.run.entry import Parser, enter
from tools.visual_reasoning.practice import practise
from tools.visual_reasoning.questions import DESCRIBE, PROBE, SceneQuestion, ask_anything, look, look_around
from tools.visual_reasoning.scenes import Scene, render
from tools.visual_reasoning.tasks import Reasoning, describe

PLACEHOLDER = "<image>\n"
MISREAD_SHARE = 0.3  # of careless steps, so that easy questions go wrong too; the others take their task's shortcut
MIXTURES = {
    "sft": ("practice", "look_describe", "look_ask", "direct", "reason"),
    "pairs": ("pairs",),
    "held_out_pairs": ("held_out_pairs",),
}

Row = dict[str, str]
Files = dict[str, list[Row]]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--practice", type=int, default=0, help="rows without pictures for fine-tuning, to practise steps"
    )
    parser.add_argument("--look", type=int, default=0, help="pictures for fine-tuning on what is seen")
    parser.add_argument("--direct", type=int, default=0, help="direct answers for fine-tuning, a picture each")
    parser.add_argument("--reason", type=int, default=0, help="step-by-step answers for fine-tuning, a picture each")
    parser.add_argument("--slips", type=float, default=0.0, help="share of the latter that are careless, 0 to 1")
    parser.add_argument("--reason_repeat", type=float, default=1.0, help="how often each of these is in sft.json")
    parser.add_argument("--pairs", type=int, default=2000, help="preference pairs, one picture each")
    parser.add_argument("--held_out", type=int, default=400, help="held-out questions, one picture each")
    return parser.parse_args(argv)


def make_visual_reasoning(args: argparse.Namespace) -> None:
    """Write pictures, rows and meta files; `args` as of `parse_arguments`. The seed decides every byte.

    Raises:
        ValueError: a negative number, or a share outside of [0, 1].
    """
    kinds = {"look": "look", "direct": "direct", "reason": "reason", "train": "pairs", "held_out": "held_out"}
    counts = {kind: getattr(args, flag) for kind, flag in kinds.items()}
    if min(args.practice, *counts.values()) < 0 or not 0 <= args.slips <= 1:
        raise ValueError(f"{args}: numbers of pictures and rows must be at least 0, --slips in 0..1")
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    files: Files = defaultdict(list)
    for kind, count in counts.items():
        for index in track(range(count), desc=f"pictures, {kind}", disable=not count):
            rng = random.Random(f"{args.seed} {kind} {index}")
            question = ask_anything(rng, held_out=kind == "held_out")
            image = f"{kind}{index:06}.png"
            render(question.scene, rng).save(args.out / "images" / image)
            _add_rows(files, kind, image, question, rng, args.slips)
    rng = random.Random(f"{args.seed} practice")
    for _ in range(args.practice):
        text, answer = practise(rng)
        files["practice"].append({"question": text, "chosen": answer})
    for name, rows in files.items():
        lines = (json.dumps(row) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, parts in MIXTURES.items():
        _write_meta(args.out / f"{name}.json", {part: files[part] for part in parts if part in files}, args)


def _add_rows(files: Files, kind: str, image: str, question: SceneQuestion, rng: random.Random, slips: float) -> None:
    """The rows about one picture of a kind: look, direct, reason, train or held_out."""
    if kind == "look":
        _add_look_rows(files, image, question, rng)
    elif kind == "direct":
        files["direct"].append(_sft_row(image, question.text, question.solution().answer))
    elif kind == "reason":
        solution = careless(question, rng) if rng.random() < slips else question.solution()
        files["reason"].append(_sft_row(image, question.step_by_step, solution.response))
    else:
        _add_pair_rows(files, kind, image, question, rng)


def careless(question: SceneQuestion, rng: random.Random) -> Reasoning:
    """The shortcut, or an entry misread."""
    return question.misread(rng) if rng.random() < MISREAD_SHARE else question.hurry()


def _add_look_rows(files: Files, image: str, question: SceneQuestion, rng: random.Random) -> None:
    """What is in the picture, and a question of each kind about what is seen."""
    files["look_describe"].append(_sft_row(image, DESCRIBE, describe(question.scene)))
    files["look_ask"] += [_sft_row(image, *asked) for asked in look_around(question.scene, rng)]


def _sft_row(image: str, text: str, chosen: str) -> Row:
    return {"image": image, "question": PLACEHOLDER + text, "chosen": chosen}


def _add_pair_rows(files: Files, split: str, image: str, question: SceneQuestion, rng: random.Random) -> None:
    """A pair and its bare question; for held-out pictures also to be asked directly, and whether a thing is there."""
    solution, slip = question.solution(), question.slip(rng)
    pair = {**_sft_row(image, question.step_by_step, solution.response), "rejected": slip.response}
    files["pairs" if split == "train" else "held_out_pairs"].append({**pair, "task": question.task})
    row = {"image": f"images/{image}", "question": PLACEHOLDER + question.text, "answer": solution.answer}
    row["task"] = question.task
    files[f"{split}_en_prompts"].append({**row, "right_response": solution.response})
    if split == "held_out":
        files["held_out_en_direct"].append(row)
        if isinstance(question.scene, Scene):
            text, answer = look(question.scene, rng, PROBE)
            files["held_out_en_probes"].append({**row, "question": PLACEHOLDER + text, "answer": answer, "task": PROBE})


def _write_meta(path: Path, files: Files, args: argparse.Namespace) -> None:
    """Write the mixture of these data sets, if there are any."""
    repeats = {"reason": args.reason_repeat}
    specs = {
        part: DatasetSpec(part, "images", f"{part}.jsonl", repeat_time=repeats.get(part, 1), length=len(rows))
        for part, rows in files.items()
    }
    if specs:
        meta = {part: spec.to_entry() for part, spec in specs.items()}
        path.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors as of `make_visual_reasoning`."""
    make_visual_reasoning(parse_arguments(argv))


if __name__ == "__main__":
    enter(main)
