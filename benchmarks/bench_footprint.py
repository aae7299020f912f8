"""The memory that `tools.footprint` estimates beside what is alive in steps of published sizes, on fake tensors.

    python benchmarks/bench_footprint.py            # no GPU and no memory needed; 5 minutes on one core

Float32 weights under autocast with AdamW, one pair, as training runs them on one GPU without DeepSpeed. `over` is the
estimate over what was accounted: at least 1, since who is told less than is needed runs out of memory. What neither
sees are CUDA's own memory, workspaces of kernels, and gaps between blocks. Writes benchmarks/results/footprint.json.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fake_gpu import Case, accounted, estimated_peak
from machine import write_results

GIB = 2**30
LONGEST = {"tiles": 13, "answers": (4800, 1024)}
FORMS = (
    {"reference": True},
    {"reference": False},
    {**LONGEST, "reference": True},
    {"reference": False, "recompute": False},
)
CASES = [Case(name, **form) for name in ("InternVL2_5-1B", "InternVL2_5-2B", "InternVL2_5-8B") for form in FORMS]


def compared(case: Case) -> dict[str, Any]:
    """Both figures of a case in GiB, and their ratio."""
    found = accounted(case)
    estimated = estimated_peak(case, found.load)
    figures = {"accounted_gib": found.peak / GIB, "estimated_gib": estimated / GIB, "over": estimated / found.peak}
    return {**asdict(case), "tokens": found.load.tokens, **{name: round(value, 3) for name, value in figures.items()}}


def main() -> None:
    """Compare all cases and write them down."""
    rows = [compared(case) for case in CASES]
    ratios = [row["over"] for row in rows]
    write_results("footprint", {"least_over": min(ratios), "most_over": max(ratios), "cases": rows})


if __name__ == "__main__":
    main()
