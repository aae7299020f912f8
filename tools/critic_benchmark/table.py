"""The figures of a critic as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {"pooled": "all steps pooled", "weighted": "sources by steps", "mean_of_sources": "mean of sources"}


def table(report: Mapping[str, Any]) -> str:
    """A line for each source and each overall reading, what they rest on, and what was left out."""
    overall, steps, first = report["overall"], report["steps"], report["first_error"]
    lines = [f"{report['scored']} on {report['benchmark']}, threshold {report['threshold']:.3g} ({report['chosen']})"]
    lines += [f"{'macro F1, %':>28}  {'interval':^16} {'right':>7} {'wrong':>7} {'steps':>7}"]
    lines += [_line(name, found, found["steps"]) for name, found in report["sources"].items()]
    lines += [_line(NAMES[name], overall[name] | _pooled(name, overall), "") for name in NAMES]
    lines += [f"guesses: {report['chance']['always_right']} always right, {report['chance']['coin']} by coin"]
    auc = "none" if report["auc"] is None else report["auc"]
    lines += [f"area under ROC {auc}, expected calibration error {report['calibration']['expected_error']}"]
    lines += [f"first error: F1 {first['f1']} ({first['with_error']} found, {first['without_error']} let pass)"]
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in steps.items())
    left_out = ", ".join(f"{count} {name}" for name, count in report["left_out"].items()) or "none"
    return "\n".join([*lines, f"steps: {counted}; rows: {report['rows']}, left out: {left_out}"])


def _pooled(name: str, overall: Mapping[str, Any]) -> dict[str, Any]:
    """The two F1 scores, which only the pooled reading has."""
    return {key: overall[key] for key in ("f1_right", "f1_wrong")} if name == "pooled" else {}


def _line(name: str, found: Mapping[str, Any], steps: object) -> str:
    low, high = found["interval"]
    parts = [f"{found.get(key, ''):>7}" for key in ("f1_right", "f1_wrong")]
    return f"{name:>20} {found['macro_f1']:>7}  [{low:>6}, {high:>6}] {' '.join(parts)} {steps:>7}"
