"""A process reward model of the small world over several seeds: what choosing by it is worth, and how well it judges.

    python benchmarks/critic_world.py --out work_dirs/critic_world --seeds 0 1 2

Per seed: the quickstart's training prompts are answered by the base and the steps of the answers scored by Monte-Carlo
continuation (visualprm pipeline), a critic is trained on the scores, 1,000 held-out questions are answered 8 times, and
one answer is chosen by the critic, by the majority, or at random. The generator knows which steps are right, so the
critic's verdicts, and the labels it learned from, are judged too.

Every stage is a documented command and is done once: a stopped run goes on. `--until steps` stops behind a stage.
Writes results/critic_world.json when the seeds are through, critic_world_turns.json with `--layout turns`, which wants
an `--out` of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_results

from internvl_chat.losses.steps import judgement_scores
from internvl_chat.model.critic_turns import ANSWER, LAYOUTS, MAX_STEPS, text_steps
from internvl_chat.records.durable import json_text, whole_lines, write_atomically
from tools.critic_benchmark.metrics import area_under_roc
from tools.evaluation.answering import answers_path, read_answers
from tools.evaluation.comparison import paired, share
from tools.evaluation.table import read_report
from tools.visual_reasoning.steps import judge_steps

ROOT = Path(__file__).parents[1]
BASE = "ckpt/tiny-base"
ASK = ("--max-num", "1", "--max-new-tokens", "96", "--engine", "transformers")
TRAIN = (
    *("--force_image_size", 56, "--max_dynamic_patch", 1, "--max_seq_length", 2048, "--grad_checkpoint", False),
    *("--report_to", "none", "--save_strategy", "no", "--lr_scheduler_type", "cosine", "--weight_decay", 0.05),
    *("--warmup_ratio", 0.05, "--logging_steps", 40, "--group_by", "prompt", "--freeze_backbone", True),
)
THRESHOLD = 0.5  # of the critic's verdicts
PLACES = 3  # steps of an answer in the world's form; of a hundred answers one or none has more
NAMES = {True: "right", False: "wrong"}
PIPELINES = "tools.reasoning_data_pipeline"


@dataclass(frozen=True)
class World:
    """Sizes and folder of one seed.

    Attributes:
        folder: everything about the seed.
        seed: of pictures, questions, samples and training.
        prompts: questions whose answers the critic learns from.
        held_out: questions that it chooses answers to.
        answers, continuations: of each prompt, and of each step.
        samples: answers to a held-out question.
        epochs: of training the critic.
        layout: how it is shown steps.
    """

    folder: Path
    seed: int
    prompts: int = 1600
    held_out: int = 1000
    answers: int = 4
    continuations: int = 8
    samples: int = 8
    epochs: int = 5
    layout: str = ANSWER

    @property
    def steps(self) -> Path:
        """Answers with Monte-Carlo scores."""
        return self.folder / "steps"

    @property
    def questions(self) -> Path:
        """Held-out questions."""
        return self.folder / "data" / "held_out_en_prompts.jsonl"

    @property
    def evaluation(self) -> Path:
        """Held-out answers of the base, judged."""
        return self.folder / "answers.json"

    @property
    def critic(self) -> Path:
        """The trained critic."""
        return self.folder / "critic"


def draw(world: World) -> None:
    """Pictures and questions, those of the quickstart of this seed."""
    sizes = ("--pairs", world.prompts, "--held_out", world.held_out, "--seed", f"1{world.seed}")
    command("data.make_visual_reasoning", "--out", world.folder / "data", *sizes)


def score_by_continuation(world: World) -> None:
    """Answers of the base to the training prompts, with the Monte-Carlo scores of their steps."""
    prompts = ("--prompt-path", world.folder / "data" / "train_en_prompts.jsonl", "--out-dir", world.steps)
    amount = ("--num-return-sequences", world.answers, "--num-mc-sequences", world.continuations, "--no-early-stop")
    how = ("--checkpoint", BASE, "--dynamic", "--batch-size", 32, "--seed", world.seed)
    command(f"{PIPELINES}.visualprm_data_pipeline", *prompts, *amount, *how, *ASK)


def answer_held_out(world: World) -> None:
    """Answers of the base to the held-out questions: sampled ones, and the most likely one."""
    command("tools.evaluate", *asked(world, world.evaluation))


def asked(world: World, out: Path) -> tuple[object, ...]:
    """Flags of an evaluation of the base on the held-out questions."""
    how = ("--temperature", 1, "--samples", world.samples, "--greedy", "--seed", world.seed, "--batch-size", 128)
    return ("--checkpoint", BASE, "--reasoned", world.questions, "--out", out, *how, *ASK)


def convert(world: World) -> None:
    """Conversations with a judgement behind each step: `+` where some continuation came out right."""
    folders = ("--data-dir", world.steps, "--save-dir", world.folder / "rows", "--num-workers", 1)
    command(f"{PIPELINES}.visualprm_data_pipeline_postprocess", *folders, "--mc-threshold", 0)


def train(world: World) -> None:
    """The critic, from the base, on the scores: where answers are few, a wrong step often ends right by luck."""
    places = ("--model_name_or_path", BASE, "--meta_path", world.folder / "rows" / "prm_meta.json")
    amount = ("--num_train_epochs", world.epochs, "--per_device_train_batch_size", 8 * world.answers)
    how = ("--step_targets", "scores", "--step_layout", world.layout, "--step_loss", "words", "--learning_rate", 1e-3)
    more = ("--output_dir", world.critic, "--seed", world.seed, "--overwrite_output_dir", True, *TRAIN)
    command("internvl_chat.train_mpo", "--loss_type", "prm", *how, *places, *amount, *more)


def choose(world: World) -> None:
    """One of the answers to each held-out question, chosen by the critic and otherwise."""
    critic = ("--critic", world.critic, "--critic-max-num", 1, "--answers", world.evaluation)
    command("tools.evaluate", *asked(world, world.folder / "choice.json"), *critic)


def verdicts(world: World) -> None:
    """F1 of the critic's verdicts on the steps of held-out answers, and of the labels that it learned from."""
    answers = read_answers(answers_path(world.folder / "choice.json"))["reasoned"].values()
    truth = solutions(world.folder / "data" / "held_out_pairs.jsonl")
    told = [
        (place, all(judge_steps(step, truth[Path(row["images"][0]).name])), score)
        for row in answers
        for text, scores in zip(row["responses"], row["step_scores"], strict=True)
        for place, (step, score) in enumerate(zip(text_steps(text, MAX_STEPS), scores, strict=True), 1)
    ]
    labels = labels_of(world)
    found = {
        "critic": f1(told, THRESHOLD),
        "places": by_place(told),
        "labels": {str(at): f1(labels, at) for at in (0.0, THRESHOLD)},
        "label_places": by_place(labels),
    }
    write_atomically(world.folder / "verdicts.json", [json_text(found)])


def solutions(pairs: Path) -> dict[str, str]:
    """Picture -> the right steps of the question about it."""
    return {row["image"]: row["chosen"] for _, row in whole_lines(pairs)}


def labels_of(world: World) -> list[tuple[int, bool, float]]:
    """(place, is right, Monte-Carlo score) of the measured steps of the training answers; the first place is 1."""
    truth = solutions(world.folder / "data" / "pairs.jsonl")
    [path] = world.steps.rglob("train_en_prompts.jsonl")
    return [
        (place, all(judge_steps(step["step"], truth[Path(row["image"]).name])), step["score"])
        for _, row in whole_lines(path)
        for place, step in enumerate(row["steps_with_score"], 1)
        if step["num_mc_total"] and step["step"].strip()
    ]


def by_place(judged: Sequence[tuple[int, bool, float]]) -> dict[str, dict[str, float]]:
    """Of the steps at each place of the answers: how many, the share that is right, mean score, AUC, macro F1.

    AUC is how often a right step has a higher score than a wrong one, None where one kind is missing. At first steps
    that of the labels is about 0.5, chance: they describe the whole picture, and a wrong word about a shape that nobody
    asks for does no harm to the answer.
    """
    places = sorted({place for place, _, _ in judged if place <= PLACES})
    return {str(place): _at_place([step for step in judged if step[0] == place]) for place in places}


def _at_place(judged: Sequence[tuple[int, bool, float]]) -> dict[str, float | None]:
    _, right, scores = map(np.array, zip(*judged, strict=True))
    area = area_under_roc(right, scores)
    found = {"right": right.mean(), "mean_score": scores.mean(), "f1/macro": f1(judged, THRESHOLD)["f1/macro"]}
    rounded: dict[str, float | None] = {name: round(float(value), 4) for name, value in found.items()}
    return rounded | {"steps": len(judged), "auc": None if area is None else round(area / 100, 4)}


def f1(judged: Sequence[tuple[int, bool, float]], threshold: float) -> dict[str, float]:
    """Accuracy and F1, 0..1, of (place, is right, score); a score above the threshold says that a step is right."""
    counts = Counter(f"{NAMES[is_right]} as {NAMES[score > threshold]}" for _, is_right, score in judged)
    found = judgement_scores(counts)
    return {"steps": len(judged), **{name: round(value, 4) for name, value in found.items()}}


def figures(world: World) -> dict[str, Any]:
    """What a seed came to: accuracies over the number of answers, tests, verdicts, losses, seconds of each stage."""
    marks = sorted((world.folder / "done").iterdir())
    return {
        "best_of": read_report(world.folder / "choice.json")["best_of"]["reasoned"] | {"critic": "critic"},
        "verdicts": json.loads((world.folder / "verdicts.json").read_text(encoding="utf-8")),
        "losses": losses(world),
        "seconds": {mark.name: json.loads(mark.read_text(encoding="utf-8")) for mark in marks},
    }


def losses(world: World) -> dict[str, float]:
    """Step of the training -> mean loss since the step before it here."""
    history = json.loads((world.critic / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {str(entry["step"]): round(entry["loss"], 4) for entry in history if "loss" in entry}


def pooled(worlds: Sequence[World]) -> dict[str, Any]:
    """The critic against the majority and against one answer, on the questions of all seeds together."""
    pairs: dict[str, list[tuple[float, float]]] = {"majority": [], "one": []}
    for world in worlds:
        for row in read_answers(answers_path(world.folder / "choice.json"))["reasoned"].values():
            best = float(row["outcomes"][row["chosen"]] == "correct")
            pairs["majority"].append((float(row["majority"]["outcome"] == "correct"), best))
            pairs["one"].append((share(row), best))
    return {f"best against {name}": paired(of_questions) for name, of_questions in pairs.items()}


STAGES: dict[str, Callable[[World], None]] = {
    "data": draw,
    "steps": score_by_continuation,
    "answers": answer_held_out,
    "rows": convert,
    "train": train,
    "choice": choose,
    "verdicts": verdicts,
}


def command(module: str, *flags: object) -> None:
    """Run a tool as its users do; CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", module, *map(str, flags)], cwd=ROOT, check=True)


def run_stages(world: World, until: str) -> None:
    """Run the stages that are not done yet, up to `until`; the seconds of each stand in its mark."""
    for name, stage in STAGES.items():
        mark = world.folder / "done" / name
        if not mark.is_file():
            print(f"== seed {world.seed}: {name}", flush=True)
            start = time.perf_counter()
            stage(world)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps(round(time.perf_counter() - start)), encoding="utf-8")
        if name == until:
            return


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=Path("work_dirs/critic_world"), help="folder of all seeds")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--layout", choices=LAYOUTS, default=ANSWER, help="how the critic is shown steps")
    add("--until", choices=STAGES, default=list(STAGES)[-1], help="stop behind this stage")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not there yet; figures of all seeds when all stages are through."""
    args = parse_arguments(argv)
    worlds = [World((args.out / str(seed)).resolve(), seed, layout=args.layout) for seed in args.seeds]
    for world in worlds:
        run_stages(world, args.until)
    if args.until == list(STAGES)[-1]:
        shown = {name: value for name, value in asdict(worlds[0]).items() if name not in ("folder", "seed")}
        seeds = {str(world.seed): figures(world) for world in worlds}
        name = "critic_world" if args.layout == ANSWER else f"critic_world_{args.layout}"
        write_results(name, {"settings": shown, "seeds": seeds, "pooled": pooled(worlds)})


if __name__ == "__main__":
    main()
