"""What is measured of a checkpoint: held-out accuracy, right and true steps, and the likelihood of a general text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.study.measures import chosen_logps, mean
from benchmarks.study_pretrained.data import steps_of
from benchmarks.study_pretrained.problems import Step, judge_steps
from benchmarks.study_pretrained.rounding import WEIGHTS
from internvl_chat.checkpoint.export import copy_companions
from tools.evaluate import answers_path, evaluate, parse_arguments
from tools.evaluation.answering import read_answers
from tools.evaluation.comparison import compare_way
from tools.reasoning_data_pipeline.prompts.wording import unasked

ASK = "--max-num 1 --max-new-tokens 48 --batch-size 256 --engine transformers"


def answers_of(folder: Path) -> Path:
    """The answers that a measuring left in its folder."""
    return answers_path(folder / "evaluation.json")


def measure_greedy(checkpoint: Path, questions: Path, out: Path) -> dict[str, Any]:
    """Most likely answers: accuracies in percent by way of asking and task, steps in percent, nats per token."""
    asked = questions / "held_out_en_prompts.jsonl"
    report = _evaluate(checkpoint, out, "--reasoned", asked, "--direct", questions / "held_out_direct.jsonl")
    found = measure_steps(read_answers(answers_of(out))["reasoned"].values(), steps_of(asked))
    nll = -chosen_logps([checkpoint], questions / "text.json")[0]
    return {"reasoned": report["reasoned"], "direct": report["direct"], **found, "text_nll": nll}


def measure_sampled(checkpoint: Path, questions: Path, out: Path, drawn: int) -> dict[str, Any]:
    """Accuracy of answers sampled at temperature 1, in percent by task, and of their majority."""
    asked = questions / "held_out_en_prompts.jsonl"
    return {
        "reasoned": _evaluate(checkpoint, out, "--reasoned", asked, "--temperature", 1, "--samples", drawn)["reasoned"]
    }


def measure_in_float32(checkpoint: Path, questions: Path, out: Path) -> dict[str, Any]:
    """Accuracies of most likely answers, in percent by task, of the same weights in float32, which the engine takes."""
    same = out / "checkpoint"
    same.mkdir(exist_ok=True)
    copy_companions(checkpoint, same)
    weights = {name: weight.float() for name, weight in load_file(checkpoint / WEIGHTS).items()}
    save_file(weights, same / WEIGHTS, metadata={"format": "pt"})
    found = _evaluate(same, out, "--reasoned", questions / "held_out_en_prompts.jsonl")
    (same / WEIGHTS).unlink()
    return {"reasoned": found["reasoned"]}


def _evaluate(checkpoint: Path, out: Path, *words: Any) -> dict[str, Any]:
    given = ["--checkpoint", checkpoint, "--out", out / "evaluation.json", *words]
    return evaluate(parse_arguments([*map(str, given), *ASK.split()]))


def measure_steps(rows: Iterable[Mapping[str, Any]], steps: Mapping[str, tuple[Step, ...]]) -> dict[str, float]:
    """Percent of first answers all of whose lines are true, and percent whose lines are the steps of the solution."""
    judged = [judge_steps(row["responses"][0], steps[unasked(row["question"])[0]]) for row in rows]
    return {
        "true_steps": 100 * mean([true for true, _ in judged]),
        "right_steps": 100 * mean([same for _, same in judged]),
    }


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Paired tests of two measurings on the same questions, by way of asking; `before` is the other."""
    after, before = (read_answers(answers_of(folder)) for folder in (one, other))
    return {way: compare_way(way, before[way], after[way]) for way in after if way in before}
