"""What is normal: the least and most of each figure of a run's log over runs of ours, for `tools/report.py`.

    for seed in 0 1 2; do
        python -m internvl_chat.train_mpo ... --seed $seed --output_dir work_dirs/normal/$seed
    done
    python benchmarks/run_figures.py work_dirs/normal/* --of "a million weights, pairs of shell/quickstart.sh"

Reads trainer_state.json and settings.json of each run; writes results/run_figures.json with the flags of the first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine import write_results

from tools.curves.log import read_log
from tools.evaluation.run_figures import measure, model_shape

FLAGS = ("max_steps", "per_device_train_batch_size", "learning_rate", "warmup_steps", "beta", "loss_type", "reference")


def main() -> None:
    """Measure the runs, write least and most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of finished trainings")
    parser.add_argument("--of", required=True, help="what the runs are, for readers of a report")
    args = parser.parse_args()
    measured = [measure(read_log(run)) for run in args.runs]
    names = [name for name in measured[0] if all(name in figures for figures in measured)]
    values = {name: [figures[name] for figures in measured] for name in names}
    write_results("run_figures", summarize(args.runs, args.of, values))


def summarize(runs: list[Path], description: str, values: dict[str, list[float]]) -> dict[str, Any]:
    """The result file: the runs, what they share, and least and most of each figure."""
    settings = [json.loads((run / "settings.json").read_text(encoding="utf-8"))["training"] for run in runs]
    return {
        "origin": (
            f"Least and most over {len(runs)} runs: {description}; benchmarks/results/run_figures.json has their "
            "flags. A figure is marked when it lies further out than these are apart. Large models at their small "
            "learning rates move less than these."
        ),
        "model": model_shape(runs[0]),
        "flags": {name: settings[0][name] for name in FLAGS},
        "seeds": [one["seed"] for one in settings],
        "figures": {name: [round(min(found), 4), round(max(found), 4)] for name, found in values.items()},
    }


if __name__ == "__main__":
    main()
