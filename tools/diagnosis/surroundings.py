"""Rules on what is around the learning: how often rows came, how many were skipped, speed and memory."""

from __future__ import annotations

import numpy as np

from tools.diagnosis.evidence import Evidence, as_number, of_curve
from tools.diagnosis.verdicts import Judged, judged

MOST_EPOCHS = 10
SKIPPED = 0.05  # share of the rows that came
SLOWEST = 0.25
MEMORY_GROWTH = 1.5


def few_epochs(run: Evidence) -> Judged | None:
    """No row comes so often that it can be learned by heart."""
    found = [as_number(entry["epoch"]) for entry in run.entries if "epoch" in entry]
    finite = [epoch for epoch in found if np.isfinite(epoch)]
    return judged(f"{max(finite):.4g} epochs", max(finite) > MOST_EPOCHS) if finite else None


def rows_used(run: Evidence) -> Judged | None:
    """Few rows are skipped, and the books add up."""
    used, skipped = (as_number(run.ledger.get(name)) for name in ("used", "skipped"))
    allowed = min(SKIPPED, 0.5 * as_number(run.flags.get("max_skipped_share", 1)))
    if not np.isfinite(used + skipped):
        ends_with = [as_number(entry["skipped_rows"]) for entry in run.entries if "skipped_rows" in entry]
        return judged(f"{ends_with[-1]:.0f} skipped, of unknown many", is_fault=False) if ends_with else None
    came = used + skipped
    value = f"{skipped:.0f} of {came:.0f} rows skipped"
    is_off = run.ledger.get("adds_up") is False
    value += "; the books do not add up" if is_off else ""
    return judged(value, is_off or skipped > allowed * came)


@of_curve("tokens_per_second")
def speed_holds(run: Evidence, values: np.ndarray) -> Judged:
    """Tokens per second do not break down."""
    size = max(2, len(values) // 5)
    begin, end = float(np.median(values[:size])), float(np.median(values[-size:]))
    return judged(f"median {begin:.4g} at the begin, {end:.4g} at the end", end < SLOWEST * begin)


@of_curve("peak_memory_gib")
def memory_holds(run: Evidence, values: np.ndarray) -> Judged:
    """Peak memory comes to rest."""
    early, last = float(values[len(values) // 4]), float(values[-1])
    return judged(f"{early:.4g} GiB after a quarter, {last:.4g} at the end", last > MEMORY_GROWTH * early > 0)
