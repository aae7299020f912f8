"""The stages, each at most some minutes long: data, base, starts, their answers, pairs, training, measures.

All by the tools that users run, called in one process. Every stage returns its folder, and makes what it needs first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.study.arms import Arm
from benchmarks.study.files import lengths_of, read_meta, read_rows
from benchmarks.study_pretrained.conditions import ARMS, BASES, BY_TRL, MODEL, STARTS, TRAIN, WATCHED
from benchmarks.study_pretrained.data import (
    PLAIN_USES,
    steps_of,
    write_asked,
    write_held_out,
    write_mixture,
    write_plain,
    write_taught,
    write_watched,
)
from benchmarks.study_pretrained.keyed import emptied, keyed
from benchmarks.study_pretrained.measures import measure_greedy, measure_in_float32, measure_sampled
from benchmarks.study_pretrained.pairs import KINDS, traits
from benchmarks.study_pretrained.problems import PLAIN_SPLITS
from benchmarks.study_pretrained.rounding import last_saved, measure_rounding
from benchmarks.study_pretrained.settings import TEMPLATE, Study
from internvl_chat.model.upstream import PREFIX_CHECKPOINT_DIR
from internvl_chat.train_mpo import main as train
from internvl_chat.training import parse_arguments as parse_training
from tools.compose import main as compose
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample_answers
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair_answers

TOWER = "--vision_size 1:64:2 --image_size 56"
SAMPLE = "--engine transformers --max-new-tokens 48 --batch-size 16 --prompt-version en"


def taught(study: Study) -> Path:
    """Worked solutions."""
    number = study.sizes.taught
    return keyed(study.work, "taught", {"problems": number}, lambda out: write_taught(out, number))


def asked(study: Study) -> Path:
    """Questions to sample answers to."""
    number = study.sizes.asked
    return keyed(study.work, "asked", {"problems": number}, lambda out: write_asked(out, number))


def watched(study: Study) -> Path:
    """Questions in the sentences of training, none of them asked: what a run is asked on its way."""
    made_of = {"problems": study.sizes.watched, "asked": study.sizes.asked}
    return keyed(study.work, "watched", made_of, lambda out: write_watched(out, study.sizes))


def held_out(study: Study) -> Path:
    """Held-out questions, and a general text."""
    sizes = study.sizes
    names = ("held_out", "held_out_kinds", "direct", "paragraphs")
    made_of = {name: getattr(sizes, name) for name in names}
    return keyed(study.work, "held out", made_of, lambda out: write_held_out(out, sizes))


def plain(study: Study, split: str) -> Path:
    """All questions of a split with one template a kind, worked solutions and the general text."""
    sizes = study.sizes
    names = (*PLAIN_USES, "direct", "paragraphs")
    made_of = {name: getattr(sizes, name) for name in names}
    return keyed(study.work, split, made_of, lambda out: write_plain(out, split, sizes))


def for_start(study: Study, name: str, use: Callable[[Study], Path]) -> Path:
    """The data of one use, one of the stages above, for a start and all that comes of it."""
    return plain(study, name) if name in PLAIN_SPLITS else use(study)


def base(study: Study, dtype: str) -> Path:
    """The language model with a small vision tower, which nothing here looks through; it is stored in `dtype`."""
    flags = f"{TOWER} --dtype {dtype}"
    made_of = {"model": study.model.name, "flags": flags}
    words = ["--llm", study.model, "--template", TEMPLATE, *flags.split()]
    return keyed(study.work, "base", made_of, lambda out: compose([*map(str, words), "--out", str(emptied(out))]))


def start(study: Study, name: str) -> Path:
    """One of STARTS: the base, or another start, taught the form."""
    arm, solutions = STARTS[name], for_start(study, name, taught) / "taught.json"
    origin = base(study, BASES[arm.start]) if arm.start in BASES else start(study, arm.start)
    flags = f"{MODEL} {arm.flags}"
    made_of = {"start": origin.name, "data": solutions.parent.name, "flags": flags}
    return keyed(study.work, f"start {name}", made_of, lambda out: train_from(origin, solutions, out, flags))


def answers(study: Study, name: str) -> Path:
    """Answers that a start samples to the asked questions; a call that was stopped goes on."""
    policy, questions = start(study, name), for_start(study, name, asked)
    amount = f"--num-return-sequences {study.sizes.samples}"
    words = ["--prompt-path", questions / "asked_en_prompts.jsonl", "--checkpoint", policy]
    made_of = {"start": policy.name, "questions": questions.name, "flags": f"{SAMPLE} {amount}"}

    def sample(out: Path) -> None:
        sample_answers([*map(str, words), "--out-dir", str(out), *SAMPLE.split(), *amount.split()])

    return keyed(study.work, f"answers {name}", made_of, sample)


def pairs(study: Study, name: str) -> Path:
    """All pairs of the answers of a start, by the pipeline."""
    sampled, limits = answers(study, name), f"--num-pairs-per-key {study.sizes.pairs_per_question} --num-workers 1"
    words = ["--data-dir", str(sampled), *limits.split()]

    def pair(out: Path) -> dict[str, Any]:
        pair_answers([*words, "--save-dir", str(emptied(out))])
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return {"pairs": lengths_of(out / "meta.json"), "summary": summary}

    return keyed(study.work, f"pairs {name}", {"answers": sampled.name, "flags": limits}, pair)


def chosen_pairs(study: Study, arm: Arm) -> Path:
    """The pairs of an arm: those of its start that are of its kind."""
    source, kind = pairs(study, arm.start), KINDS[arm.pairs]

    def choose(out: Path) -> dict[str, Any]:
        entries = read_meta(source / "meta.json").values()
        rows = [row for entry in entries for row in read_rows(Path(entry["annotation"]))]
        steps = steps_of(for_start(study, arm.start, asked) / "asked_en_prompts.jsonl")
        kept = kind(rows, steps)
        write_mixture(out / "pairs.json", kept)
        return {"pairs": len(kept), "questions": len({row["question"] for row in kept}), **traits(kept, steps)}

    return keyed(study.work, f"pairs {arm.start} {arm.pairs}", {"pairs": source.name, "kind": arm.pairs}, choose)


def trained(study: Study, name: str, arm: Arm, seed: int) -> Path:
    """An arm, trained."""
    flags = f"{MODEL} {TRAIN} {arm.flags} --seed {seed}"
    origin, mixture = start(study, arm.start), chosen_pairs(study, arm)
    made_of = {"start": origin.name, "pairs": mixture.name, "flags": flags}
    if name in BY_TRL:
        made_of["trainer"] = "trl"
    if WATCHED in flags:
        questions = for_start(study, arm.start, watched)
        made_of["watched"] = questions.name
        flags = flags.replace(WATCHED, str(questions / "watched_en_prompts.jsonl"))

    def run(out: Path) -> dict[str, Any]:
        if name in BY_TRL:
            return _train_with_trl(origin, mixture, out, flags)
        found = train_from(origin, mixture / "pairs.json", out, flags)
        saved = last_saved(out)
        return found | ({"rounding": measure_rounding(origin, saved)} if saved else {})

    return keyed(study.work, f"run {name}", made_of, run)


def answered_greedily(study: Study, name: str, checkpoint: Path) -> Path:
    """The figures of the most likely answers of a checkpoint to the held-out questions, and of what it knew before."""
    questions = for_start(study, start_of(name), held_out)
    made_of = {"checkpoint": checkpoint.name, "questions": questions.name}
    return keyed(study.work, f"greedy {name}", made_of, lambda out: measure_greedy(checkpoint, questions, out))


def answered_by_chance(study: Study, name: str, checkpoint: Path) -> Path:
    """The figures of answers that a checkpoint samples to the held-out questions."""
    questions, drawn = for_start(study, start_of(name), held_out), study.sizes.drawn
    made_of = {"checkpoint": checkpoint.name, "questions": questions.name, "drawn": drawn}
    return keyed(study.work, f"sampled {name}", made_of, lambda out: measure_sampled(checkpoint, questions, out, drawn))


def answered_in_float32(study: Study, name: str, checkpoint: Path) -> Path:
    """The figures of most likely answers by the weights of a checkpoint in float32."""
    questions = for_start(study, start_of(name), held_out)
    made_of = {"checkpoint": checkpoint.name, "questions": questions.name}
    return keyed(study.work, f"float32 {name}", made_of, lambda out: measure_in_float32(checkpoint, questions, out))


def start_of(name: str) -> str:
    """The start of an arm, or of what `start NAME` measures: itself."""
    return ARMS[name].start if name in ARMS else name.removeprefix("start ")


def train_from(checkpoint: Path, meta: Path, out: Path, flags: str) -> dict[str, Any]:
    """Train into `out`, or go on from what was saved there; what the log says, and what was answered on the way."""
    goes_on = any(out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    places = ["--model_name_or_path", checkpoint, "--meta_path", meta, "--output_dir", out if goes_on else emptied(out)]
    train([*map(str, places), "--conv_style", TEMPLATE, *flags.split()])
    log = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    looks = [entry for entry in log if "eval_accuracy" in entry]
    return {"curve": [entry for entry in log if "loss" in entry], "end": log[-1], **({"looks": looks} if looks else {})}


def _train_with_trl(checkpoint: Path, mixture: Path, out: Path, flags: str) -> dict[str, Any]:
    """Train by TRL's trainer instead, with what of the flags both know; what its log says."""
    from benchmarks.study_pretrained.trl_control import train_with_trl  # which needs seconds to import

    places = f"--model_name_or_path {checkpoint} --meta_path {mixture / 'pairs.json'} --output_dir {out}"
    args = parse_training([*places.split(), *flags.split()])[2]
    log = train_with_trl(checkpoint, read_rows(mixture / "pairs.jsonl"), emptied(out), args)
    return {"curve": [entry for entry in log if "loss" in entry], "end": log[-1]}
