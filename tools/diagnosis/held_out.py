"""Rules on held-out questions that the policy answered on its way (`--eval_prompts`): what trained rows cannot tell.

Their log entries are judged as they were written: whether a fall is beyond chance was decided by the run itself, whose
level per look is in the entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.diagnosis.evidence import Evidence, as_number
from tools.diagnosis.measures import ends
from tools.diagnosis.verdicts import Judged, Sign, judged


def looks(run: Evidence) -> list[Mapping[str, Any]]:
    """The entries of looks, in order."""
    return [entry for entry in run.entries if "eval_accuracy" in entry]


def answers_stay_right(run: Evidence) -> Judged | None:
    """The last look has not fewer right answers than the first, beyond chance."""
    found = looks(run)
    if not found:
        return None
    last = found[-1]
    now, change, low, high, p, level = (
        as_number(last.get(f"eval_accuracy{name}"))
        for name in ("", "_change", "_change_low", "_change_high", "_p", "_level")
    )
    if len(found) == 1:
        return Judged(f"{100 * now:.1f} % right at step {last['step']}; nothing to compare yet", Sign.UNKNOWN)
    value = (
        f"{100 * now:.1f} % right at step {last['step']}, {100 * change:+.1f} points since step {found[0]['step']}, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}; one-sided p = {p:.2g}, limit of a look {level:.2g}"
    )
    return judged(value, p <= level)


def right_hold(run: Evidence) -> Judged | None:
    """Right answers of the first look do not lose more likelihood than its wrong ones, beyond chance."""
    found = [entry for entry in looks(run) if "eval_logps/gap_change" in entry][1:]
    if not found:
        return None
    last = {name: as_number(value) for name, value in found[-1].items() if name.startswith("eval_logps/")}
    right, wrong, gap, low, high = (
        last[f"eval_logps/{name}"]
        for name in ("right_change", "wrong_change", "gap_change", "gap_change_low", "gap_change_high")
    )
    value = f"right ones {right:+.2f} nats, wrong ones {wrong:+.2f}: gap {gap:+.2f}, 95 % interval {low:+.2f} to "
    value += f"{high:+.2f}"
    accuracies = run.values("rewards/accuracies")
    if len(accuracies):
        value += f"; reward accuracy of the trained pairs {ends(accuracies)}"
    return judged(value, high < 0)
