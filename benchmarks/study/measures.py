"""What is measured of a checkpoint: accuracies by `tools/evaluate.py`, lengths, distance from the base.

KL(policy || base) is estimated on answers that the policy itself drew: the mean over their tokens of
log policy - log base, in nats per token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.evaluate import answers_path, evaluate, parse_arguments
from tools.evaluation.answering import read_answers
from tools.evaluation.comparison import compare_way
from tools.evaluation.preference import log_probs, pair_batches

ASK = "--max-num 1 --max-new-tokens 96 --batch-size 128 --engine transformers"
SAMPLED = ("--temperature", "1", "--greedy")
KL_ANSWERS = 200


def step_by_step(checkpoint: Path, folder: Path) -> float:
    """Greedy step-by-step accuracy of a checkpoint on the held-out questions in `folder`/data, percent."""
    questions = str(folder / "data" / "held_out_en_prompts.jsonl")
    report = evaluate(parse_arguments(["--checkpoint", str(checkpoint), "--reasoned", questions, *ASK.split()]))
    return float(report["reasoned"]["all"]["percent"])


def evaluation_of(checkpoint: Path, folder: Path) -> Path:
    """Where the figures of a checkpoint stand; its answers stand beside."""
    return folder / "evaluations" / f"{checkpoint.name}.json"


def compare_answers(one: Path, other: Path) -> dict[str, Any]:
    """Greedy step-by-step answers of `one` against `other`, by their evaluations: points, interval, McNemar's p."""
    rows = (read_answers(answers_path(evaluation))["reasoned_greedy"] for evaluation in (other, one))
    return compare_way("reasoned_greedy", *rows)


def measure(checkpoint: Path, base: Path, folder: Path) -> dict[str, Any]:
    """Figures of a checkpoint on the held-out questions in `folder`/data; accuracies in percent, lengths in words."""
    data, out = folder / "data", evaluation_of(checkpoint, folder)
    files = ["--reasoned", data / "held_out_en_prompts.jsonl", "--direct", data / "held_out_en_direct.jsonl"]
    files += ["--probes", data / "held_out_en_probes.jsonl", "--out", out, "--checkpoint", checkpoint]
    report = evaluate(parse_arguments([*map(str, files), *ASK.split(), *SAMPLED]))
    answers = read_answers(answers_path(out))
    sampled = list(answers["reasoned"].values())
    cot, direct = (report[f"{way}_greedy"]["all"]["percent"] for way in ("reasoned", "direct"))
    return {
        "cot": cot,
        "cot_sampled": report["reasoned"]["all"]["percent"],
        "format_errors": report["reasoned_greedy"]["all"]["format_errors"],
        "direct": direct,
        "direct_sampled": report["direct"]["all"]["percent"],
        "cot_minus_direct": round(cot - direct, 2),
        "right_steps": report["reasoned_greedy"]["all"]["right_steps"],
        **probe(answers["probes"].values()),
        "words": mean([len(row["responses"][0].split()) for row in answers["reasoned_greedy"].values()]),
        "kl": divergence(checkpoint, base, sampled[:KL_ANSWERS], data / "images", out.with_suffix("")),
    }


def probe(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of the questions whether a thing is there: percent right, and percent of those not there that are seen."""
    asked = list(rows)
    right = [row["responses"][0].strip() == row["answer"] for row in asked]
    seen = [row["responses"][0].strip() == "yes" for row in asked if row["answer"] == "no"]
    return {"probe": 100 * mean(right), "hallucinated": 100 * mean(seen)}


def mean(values: Sequence[float]) -> float:
    """Mean, 0 of nothing."""
    return sum(values) / max(1, len(values))


def divergence(checkpoint: Path, base: Path, rows: Sequence[Mapping[str, Any]], images: Path, folder: Path) -> float:
    """KL(checkpoint || base) per token, estimated on the checkpoint's own answers."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = (
        {
            "image": Path(row["images"][0]).name,
            "question": row["question"],
            "chosen": row["responses"][0] or ".",
            "rejected": ".",
        }
        for row in rows
    )
    (folder / "own.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    meta = {"own": {"root": str(images.resolve()), "annotation": str(folder / "own.jsonl")}}
    (folder / "own.json").write_text(json.dumps(meta), encoding="utf-8")
    policy, reference = chosen_logps((checkpoint, base), folder / "own.json")
    return round(policy - reference, 4)


def chosen_logps(checkpoints: Sequence[Path], meta: Path) -> list[float]:
    """Log-prob of a token of the chosen answers of a mixture by each checkpoint, mean over the tokens, in nats."""
    batches = pair_batches(str(checkpoints[-1]), meta, batch_size=64, max_tiles=1)
    tokens = sum(int(pack.lengths[pack.pair_answers[0]].sum()) for pack in (batch["packed"] for batch in batches))
    return [log_probs(str(model), batches, "chosen answers")[0].sum().item() / tokens for model in checkpoints]
