"""What `tools/evaluate.py` wrote, as results of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult

from tools.evaluation.table import answered_ways

WORDS = {"reasoned": "step by step", "direct": "asked directly", "vlmeval": "in VLMEvalKit's words"}


def results(report: Mapping[str, Any], data_name: str) -> Iterator[EvalResult]:
    """The accuracies of a report, with their intervals in the metrics' names, which the hub shows.

    Args:
        report: the --out of an evaluation.
        data_name: of what was asked, such as MathVista testmini.
    """
    for way, groups in answered_ways(report):
        for group, found in groups.items():
            name = data_name if group == "all" else f"{data_name}, {group}"
            yield _result(name, f"{_way(way, report)}, {found['questions']} questions", found)
            if "majority" in found:
                several = found["answers"] // found["questions"]
                yield _result(name, f"{_way(way, report)}, majority of {several}", found["majority"])


def _way(way: str, report: Mapping[str, Any]) -> str:
    base, _, greedy = way.partition("_")
    samples = report.get("settings", {}).get("samples", 1)
    how = "greedy" if greedy or samples == 1 else f"pass@1 of {samples} samples"
    return f"{WORDS.get(base, base)}, {how}"


def _result(name: str, how: str, found: Mapping[str, Any]) -> EvalResult:
    low, high = found["interval"]
    return EvalResult(
        task_type="visual-question-answering",
        dataset_type=name.lower().replace(" ", "-"),
        dataset_name=name,
        metric_type="accuracy",
        metric_name=f"accuracy ({how}; 95 % interval {low:.2f} to {high:.2f})",
        metric_value=found["percent"],
    )
