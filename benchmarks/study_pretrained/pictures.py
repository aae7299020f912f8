"""The same language model, made to see: questions about the pictures of the small world, reasoned in two to four steps.

    python -m benchmarks.study_pretrained.pictures --model SmolLM2-135M-Instruct.Q4_1.gguf
    python -m benchmarks.study_pretrained.pictures --model .. --arms mpo sft --seeds 0 3 --minutes 60

The vision tower is that of ckpt/tiny-base, which sees that world and stays as it is. A fresh projector learns what is
seen while the language model is held still; then both learn to look and to reason, by solutions of which seven in ten
take the shortcuts of that world. Answers of this start become pairs by the pipeline, arms train on them, and held-out
pictures are asked about. Stages are done once for their settings, beside those of the word problems; all figures go
into their file by `python -m benchmarks.study_pretrained --gather`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.study.arms import MPO
from benchmarks.study.files import lengths_of, read_meta, read_rows, write_meta, write_rows
from benchmarks.study_pretrained.conditions import AT_2E5, MODEL
from benchmarks.study_pretrained.keyed import emptied, keyed, read_figures, run_stages, stages_in
from benchmarks.study_pretrained.measures import compare
from benchmarks.study_pretrained.settings import TEMPLATE, register_template
from benchmarks.study_pretrained.stages import train_from
from data.make_visual_reasoning import main as make_visual_reasoning
from tools.compose import main as compose
from tools.evaluate import evaluate
from tools.evaluate import parse_arguments as parse_evaluation
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample_answers
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair_answers
from tools.visual_reasoning.tasks import TASKS

NAME = "pictures"
LESSONS = "--look 1500 --reason 4000 --slips 0.7 --pairs 0 --held_out 0 --seed 0"
LESSON = f"{MODEL} --warmup_ratio 0.05 --loss_type sft --per_device_train_batch_size 16 --logging_steps 5"
LOOK = f"{LESSON} --freeze_llm True --freeze_backbone True --learning_rate 2e-3 --max_steps 150"
REASON = f"{LESSON} --freeze_backbone True --learning_rate 1e-4 --max_steps 220"
SAMPLE = (
    "--engine transformers --dynamic --max-num 1 --max-new-tokens 64 --batch-size 16 --prompt-version en "
    "--num-return-sequences 8"
)
PAIR = "--num-pairs-per-key 4 --num-workers 1"
ARMS = {"mpo": f"{MPO} {AT_2E5}", "nll 3": f"{MPO} --rpo_alpha 3 {AT_2E5}", "sft": f"--loss_type sft {AT_2E5}"}
RIVAL = "sft"
ASK = "--max-num 1 --max-new-tokens 64 --batch-size 64 --engine transformers"


@dataclass(frozen=True)
class Pictures:
    """One study of pictures: where its stages stand, its parts, and how many questions are drawn, of which tasks."""

    work: Path
    model: Path
    tower: Path
    asked: int
    held_out: int
    tasks: tuple[str, ...] = ()


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="GGUF file or folder of the language model")
    add("--tower", type=Path, default=Path("ckpt/tiny-base"), help="checkpoint whose vision tower is taken")
    add("--work", type=Path, default=Path("work_dirs/study_pretrained"), help="folder of all stages")
    add("--asked", type=int, default=200, help="questions to sample answers to")
    add("--held_out", type=int, default=300, help="questions on other pictures to evaluate on")
    add("--tasks", nargs="+", default=[], choices=TASKS, help="keep the questions of these; default: all")
    add("--arms", nargs="+", default=["mpo"], choices=ARMS, help="how to train on the pairs; default: %(default)s")
    add("--seeds", type=int, nargs="+", default=[1], help="how many, or from which to below which")
    add("--minutes", type=float, default=600.0, help="begin no stage after so many")
    return parser.parse_args(argv)


def questions(study: Pictures) -> Path:
    """Questions to sample answers to, and held-out ones, those of the tasks alone where these are given."""
    flags = f"--pairs {study.asked} --held_out {study.held_out} --seed 1"
    made_of = {"flags": flags} | ({"tasks": [*study.tasks]} if study.tasks else {})

    def draw(out: Path) -> None:
        _draw(flags, out)
        for file in out.glob("*_en_*.jsonl") if study.tasks else ():
            write_rows(file, [row for row in read_rows(file) if row["task"] in study.tasks])

    return keyed(study.work, f"{NAME} questions", made_of, draw)


def lessons(study: Pictures) -> Path:
    """What is seen in pictures (look.json), and that with solutions (sft.json)."""

    def draw(out: Path) -> None:
        _draw(LESSONS, out)
        entries = read_meta(out / "sft.json")
        write_meta(out / "look.json", {name: entry for name, entry in entries.items() if name.startswith("look")})

    return keyed(study.work, f"{NAME} lessons", {"flags": LESSONS}, draw)


def _draw(flags: str, out: Path) -> None:
    make_visual_reasoning(["--out", str(emptied(out)), *flags.split()])


def base(study: Pictures) -> Path:
    """Language model, tower, and a projector that knows nothing."""
    made_of = {"model": study.model.name, "tower": str(study.tower)}
    words = ["--llm", study.model, "--vision", study.tower, "--template", TEMPLATE, "--dtype", "bfloat16"]
    return keyed(
        study.work, f"{NAME} base", made_of, lambda out: compose([*map(str, words), "--out", str(emptied(out))])
    )


def start(study: Pictures) -> Path:
    """The base, taught to look and then to reason."""
    looks = _taught(study, "projector", base(study), "look.json", LOOK)
    return _taught(study, "start", looks, "sft.json", REASON)


def _taught(study: Pictures, name: str, origin: Path, mixture: str, flags: str) -> Path:
    rows = lessons(study)
    made_of = {"start": origin.name, "data": rows.name, "flags": flags}
    return keyed(study.work, f"{NAME} {name}", made_of, lambda out: train_from(origin, rows / mixture, out, flags))


def pairs(study: Pictures) -> Path:
    """Pairs of the answers of the start, by the pipeline; sampling that was stopped goes on."""
    policy, asked = start(study), questions(study)
    words = ["--prompt-path", asked / "train_en_prompts.jsonl", "--checkpoint", policy]

    def sample_and_pair(out: Path) -> dict[str, Any]:
        sample_answers([*map(str, words), "--out-dir", str(out / "sampled"), *SAMPLE.split()])
        pair_answers(["--data-dir", str(out / "sampled"), "--save-dir", str(emptied(out / "pairs")), *PAIR.split()])
        return {"pairs": lengths_of(out / "pairs" / "meta.json")}

    made_of = {"start": policy.name, "questions": asked.name, "flags": f"{SAMPLE} {PAIR}"}
    return keyed(study.work, f"{NAME} pairs", made_of, sample_and_pair)


def trained(study: Pictures, arm: str, seed: int) -> Path:
    """An arm, trained."""
    origin, mixture, flags = start(study), pairs(study), flags_of(arm, seed)
    made_of = {"start": origin.name, "pairs": mixture.name, "flags": flags}
    meta = mixture / "pairs" / "meta.json"
    return keyed(study.work, f"{NAME} run {arm}", made_of, lambda out: train_from(origin, meta, out, flags))


def flags_of(arm: str, seed: int | str) -> str:
    """Flags of the training of an arm."""
    return f"{MODEL} {ARMS[arm]} --logging_steps 1 --seed {seed}"


def answered(study: Pictures, checkpoint: Path) -> Path:
    """The most likely answers of a checkpoint about held-out pictures, step by step and directly."""
    asked = questions(study)
    files = ["--reasoned", asked / "held_out_en_prompts.jsonl", "--direct", asked / "held_out_en_direct.jsonl"]

    def ask(out: Path) -> dict[str, Any]:
        words = ["--checkpoint", checkpoint, "--out", out / "evaluation.json", *files]
        report = evaluate(parse_evaluation([*map(str, words), *ASK.split()]))
        return {way: report[way] for way in ("reasoned", "direct")}

    made_of = {"checkpoint": checkpoint.name, "questions": asked.name}
    return keyed(study.work, f"{NAME} answered", made_of, ask)


def stages(study: Pictures, arms: Sequence[str], seeds: Sequence[int]) -> Iterator[Callable[[], Path]]:
    """What is to be done, in its order; a stage makes what it needs first."""
    yield lambda: answered(study, start(study))
    for seed in range(*seeds):
        for arm in arms:
            yield partial(_answered_arm, study, arm, seed)


def _answered_arm(study: Pictures, arm: str, seed: int) -> Path:
    return answered(study, trained(study, arm, seed))


def gather(work: Path) -> list[dict[str, Any]]:
    """Figures of all that was asked about pictures: each checkpoint, a run also `against` its start and SFT."""
    folders = {folder: read_figures(folder)["made_of"] for folder in stages_in(work, f"{NAME} answered")}
    asked = {(made_of["checkpoint"], made_of["questions"]): folder for folder, made_of in folders.items()}
    made = {checkpoint: read_figures(work / checkpoint)["made_of"] for checkpoint, _ in asked}
    found = []
    for (checkpoint, posed), folder in asked.items():
        made_of = made[checkpoint]
        tasks = read_figures(work / posed)["made_of"].get("tasks", [])
        row = {**read_figures(folder), "title": _title(checkpoint, made_of), "tasks": tasks, "made_of": made_of}
        if "pairs" in made_of:
            others = {"start": made_of["start"], RIVAL: _rival(made_of, made)}
            known = {name: asked[other, posed] for name, other in others.items() if (other, posed) in asked}
            row |= {"pairs": read_figures(work / made_of["pairs"])["pairs"]}
            row |= {"against": {name: compare(folder, other) for name, other in known.items()}}
        found.append(row)
    return found


def _title(checkpoint: str, made_of: Mapping[str, Any]) -> str:
    """What a folder's name says that it is, and the seed of a run."""
    name = checkpoint.rpartition("-")[0].removeprefix(f"{NAME}_").removeprefix("run_").replace("_", " ")
    return f"{name}, seed {_seed(made_of)}" if "pairs" in made_of else name


def _seed(made_of: Mapping[str, Any]) -> str:
    return made_of["flags"].rpartition("--seed ")[2]


def _rival(made_of: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The checkpoint of SFT on the same pairs with the same seed; None for itself."""
    wanted = {**made_of, "flags": flags_of(RIVAL, _seed(made_of))}
    return next((name for name, other in others.items() if other == wanted and other != made_of), None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not there yet, as far as the time goes."""
    args = parse_arguments(argv)
    register_template()
    study = Pictures(args.work, args.model, args.tower, args.asked, args.held_out, tuple(args.tasks))
    run_stages(stages(study, args.arms, args.seeds), args.minutes)


if __name__ == "__main__":
    main()
