"""The quickstart over several seeds: held-out answers and steps of base, MPO and ceiling, and the time it takes.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2
    python benchmarks/quickstart_seeds.py --seeds 0 --from_scratch --out work_dirs/quickstart_from_scratch

Each seed has its own pictures, questions, samples and order of training. A stopped run goes on with the first seed that
is not complete. Writes results/quickstart.json, or with --from_scratch, which makes ckpt/tiny-base anew first,
results/quickstart_from_scratch.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import write_results

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run what is not there yet, write the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/quickstart_seeds"), help="folder of all runs")
    parser.add_argument("--from_scratch", action="store_true", help="make the base anew; replaces ckpt/tiny-base")
    args = parser.parse_args()
    flags, name = (["--from-scratch"], "quickstart_from_scratch") if args.from_scratch else ([], "quickstart")
    write_results(name, {"seeds": {str(seed): figures_of(args.out / str(seed), seed, flags) for seed in args.seeds}})


def figures_of(out: Path, seed: int, flags: Sequence[str]) -> dict[str, Any]:
    """Accuracies in percent, the comparison of before and after, and seconds of one seed's quickstart."""
    done = out / "seconds.json"
    if not done.is_file():
        done.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        settings = {**os.environ, "SEED": str(seed), "OUT": str(out.resolve())}
        subprocess.run(["bash", str(ROOT / "shell" / "quickstart.sh"), *flags], env=settings, check=True)
        done.write_text(json.dumps(round(time.perf_counter() - start)), encoding="utf-8")
    names = {"base": "before", "mpo": "after", "sft_on_right_steps": "ceiling"}
    reports = {key: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for key, name in names.items()}
    after = reports["mpo"]
    return {
        "questions": after["reasoned"]["all"]["questions"],
        "step_by_step": {key: found["reasoned"]["all"]["percent"] for key, found in reports.items()},
        "right_steps": {key: found["reasoned"]["all"]["right_steps"] for key, found in reports.items()},
        "by_task": {key: by_task(found["reasoned"]) for key, found in reports.items()},
        "direct": {key: reports[key]["direct"]["all"]["percent"] for key in ("base", "mpo")},
        "probes": {key: reports[key]["probes"]["all"]["percent"] for key in ("base", "mpo")},
        "comparison": after["comparison"]["reasoned"],
        "reward_accuracy": after["pairs"]["reward_accuracy"],
        "seconds": json.loads(done.read_text(encoding="utf-8")),
    }


def by_task(groups: dict[str, Any]) -> dict[str, float]:
    """Accuracy on the questions of each task, percent."""
    return {name: found["percent"] for name, found in sorted(groups.items()) if name != "all"}


if __name__ == "__main__":
    main()
