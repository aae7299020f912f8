"""Draw the small visual-reasoning world: pictures, and rows for every stage from fine-tuning to evaluation.

    python data/make_visual_reasoning.py --out work_dirs/quickstart/data

Four tasks (count, compare, add, read a chart) in English and Chinese over pictures of several sizes and aspect ratios.
Held-out pictures never occur in training, whatever the seed (see `tools/visual_reasoning/scenes.py`). Files in --out:

    images/{train,held_out}/*.png
    sft_{describe,fact,reason}.jsonl and sft.json       fine-tuning: what is seen, single facts, step-by-step answers
    pairs.jsonl and pairs.json                          preference pairs: right steps, and steps with one slip
    train_{en,zh}_prompts.jsonl                         questions of the pairs with their answers, for the samplers
    held_out_{en,zh}_prompts.jsonl                      held-out questions with their answers
    held_out_{en,zh}_facts.jsonl                        about what has to be seen for them, answered in a word
    held_out_pairs.jsonl and held_out_pairs.json        held-out preference pairs
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from internvl_chat.meta import DatasetSpec
from tools.visual_reasoning.questions import TASKS, Question, ask_anything
from tools.visual_reasoning.scenes import render

CELL_SIDES = (24, 28, 36)  # pixels: pictures of 48 x 48 to 216 x 72
PLACEHOLDER = "<image>\n"

# Of fine-tuning rows, how often in sft.json: what is seen, single facts (none: they take long to learn), reasoning.
SFT_REPEATS = {"sft_describe": 0.5, "sft_fact": 0, "sft_reason": 1}

Row = dict[str, str]
Files = dict[str, list[Row]]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sft", type=int, default=0, help="pictures for fine-tuning, three rows each")
    parser.add_argument("--pairs", type=int, default=3000, help="preference pairs, one picture each")
    parser.add_argument("--held_out", type=int, default=400, help="held-out questions, one picture each")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="which to draw")
    parser.add_argument("--slips", type=float, default=0.0, help="share of fine-tuning answers with a slip, 0 to 1")
    return parser.parse_args(argv)


def make_visual_reasoning(args: argparse.Namespace) -> None:
    """Write pictures, rows and meta files; `args` as of `parse_arguments`. The seed decides every byte.

    Raises:
        ValueError: a negative number of pictures, or a share outside of [0, 1].
    """
    if min(args.sft, args.pairs, args.held_out) < 0 or not 0 <= args.slips <= 1:
        raise ValueError(f"{args}: numbers of pictures must be at least 0, --slips in 0..1")
    files: Files = defaultdict(list)
    for index in tqdm(range(args.sft), desc="pictures for fine-tuning", disable=not args.sft):
        rng = random.Random(f"{args.seed} sft {index}")
        _add_sft_rows(files, draw_question(args, "train", f"sft{index:06}", rng), rng, args.slips)
    for split, count in (("train", args.pairs), ("held_out", args.held_out)):
        for index in tqdm(range(count), desc=f"pictures, {split}"):
            rng = random.Random(f"{args.seed} {split} {index}")
            _add_pair_rows(files, draw_question(args, split, f"{index:06}", rng), rng, split)
    for name, rows in files.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for meta in ("sft", "pairs", "held_out_pairs"):
        write_meta(args.out, meta, files)


def draw_question(args: argparse.Namespace, split: str, name: str, rng: random.Random) -> tuple[str, Question]:
    """A question about a new picture of the split, and the picture's path below images/."""
    question = ask_anything(rng, held_out=split == "held_out", tasks=args.tasks)
    path = args.out / "images" / split / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    render(question.scene, rng.choice(CELL_SIDES), rng).save(path)
    return f"{split}/{name}.png", question


def _add_sft_rows(files: Files, drawn: tuple[str, Question], rng: random.Random, slips: float) -> None:
    """Three rows about one picture."""
    image, question = drawn
    fact, answer = question.fact(rng)
    solution = question.slip(rng) if rng.random() < slips else question.solution()
    rows = {
        "describe": (question.words["describe"], question.describe()),
        "fact": (fact, answer),
        "reason": (question.step_by_step, solution.response),
    }
    for kind, (text, chosen) in rows.items():
        files[f"sft_{kind}"].append({"image": image, "question": PLACEHOLDER + text, "chosen": chosen})


def _add_pair_rows(files: Files, drawn: tuple[str, Question], rng: random.Random, split: str) -> None:
    """A pair and its bare question; for held-out pictures also a question about a fact."""
    image, question = drawn
    solution, slip = question.solution(), question.slip(rng)
    pair = {"question": PLACEHOLDER + question.step_by_step, "chosen": solution.response, "rejected": slip.response}
    files["pairs" if split == "train" else "held_out_pairs"].append({"image": image, **pair, "task": question.task})
    prompts = {"prompts": (question.text, solution.answer)}
    if split == "held_out":
        prompts["facts"] = question.fact(rng)
    for kind, (text, answer) in prompts.items():
        row = {"image": f"images/{image}", "question": PLACEHOLDER + text, "answer": answer, "task": question.task}
        files[f"{split}_{question.language}_{kind}"].append(row)


def write_meta(out: Path, name: str, files: Files) -> None:
    """Write <name>.json, the mixture of the data sets `name` and `name`_*, if there are any."""
    meta = {
        part: DatasetSpec(
            part, "images", f"{part}.jsonl", repeat_time=SFT_REPEATS.get(part, 1), length=len(rows)
        ).to_entry()
        for part, rows in files.items()
        if part == name or part.startswith(f"{name}_")
    }
    if meta:
        (out / f"{name}.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_visual_reasoning(parse_arguments())
