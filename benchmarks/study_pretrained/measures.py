"""What is measured of a checkpoint: held-out accuracy, right and true steps, and the likelihood of a general text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.measures import chosen_logps, mean
from benchmarks.study_pretrained.data import steps_of
from benchmarks.study_pretrained.problems import Step, judge_steps
from tools.evaluate import answers_path, evaluate, parse_arguments
from tools.evaluation.answering import read_answers
from tools.reasoning_data_pipeline.prompts.wording import unasked

ASK = "--max-num 1 --max-new-tokens 48 --batch-size 256 --engine transformers --temperature 1 --greedy"


def answers_of(folder: Path) -> Path:
    """The answers that a measuring left in its folder."""
    return answers_path(folder / "evaluation.json")


def measure(checkpoint: Path, data: Path, out: Path, drawn: int) -> dict[str, Any]:
    """Figures of a checkpoint: accuracies in percent by way of asking and task, steps in percent, nats per token."""
    questions = data / "held_out_en_prompts.jsonl"
    files = ["--reasoned", questions, "--direct", data / "held_out_direct.jsonl", "--out", out / "evaluation.json"]
    words = [*map(str, ["--checkpoint", checkpoint, *files, "--samples", drawn]), *ASK.split()]
    report = evaluate(parse_arguments(words))
    rows = read_answers(answers_of(out))["reasoned_greedy"].values()
    accuracies = {way: report[way] for way in ("reasoned_greedy", "reasoned", "direct_greedy")}
    return {
        **accuracies,
        **measure_steps(rows, steps_of(questions)),
        "text_nll": -chosen_logps([checkpoint], data / "text.json")[0],
    }


def measure_steps(rows: Iterable[Mapping[str, Any]], steps: Mapping[str, tuple[Step, ...]]) -> dict[str, float]:
    """Percent of first answers all of whose lines are true, and percent whose lines are the steps of the solution."""
    judged = [judge_steps(row["responses"][0], steps[unasked(row["question"])[0]]) for row in rows]
    return {
        "true_steps": 100 * mean([true for true, _ in judged]),
        "right_steps": 100 * mean([same for _, same in judged]),
    }
