"""The quickstart over several seeds: held-out accuracy of base, MPO and ceiling, and the time it takes.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2

Each seed has its own pictures, questions, samples and order of training. A stopped run goes on with the first seed that
is not complete. Writes results/quickstart.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from machine import write_results

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run what is not there yet, write the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/quickstart_seeds"), help="folder of all runs")
    args = parser.parse_args()
    write_results("quickstart", {"seeds": {str(seed): figures_of(args.out / str(seed), seed) for seed in args.seeds}})


def figures_of(out: Path, seed: int) -> dict[str, Any]:
    """Accuracies in percent, the comparison of before and after, and seconds of one seed's quickstart."""
    done = out / "seconds.json"
    if not done.is_file():
        done.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        settings = {**os.environ, "SEED": str(seed), "OUT": str(out.resolve())}
        subprocess.run(["bash", str(ROOT / "shell" / "quickstart.sh")], env=settings, check=True)
        done.write_text(json.dumps(round(time.perf_counter() - start)), encoding="utf-8")
    before, after, ceiling = (
        json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("before", "after", "ceiling")
    )
    return {
        "questions": before["reasoned"]["all"]["questions"],
        "step_by_step": {"base": percent(before), "mpo": percent(after), "sft_on_right_steps": percent(ceiling)},
        "direct": {"base": percent(before, "direct"), "mpo": percent(after, "direct")},
        "comparison": after["comparison"]["reasoned"],
        "reward_accuracy": after["pairs"]["reward_accuracy"],
        "seconds": json.loads(done.read_text(encoding="utf-8")),
    }


def percent(report: dict[str, Any], kind: str = "reasoned") -> float:
    """Accuracy on all questions of one kind."""
    return float(report[kind]["all"]["percent"])


if __name__ == "__main__":
    main()
