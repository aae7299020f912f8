"""Keep of a run what its report reads, in one small file: its log, and the settings that tell what is expected of it.

python tests/tools/run_logs/keep_log.py work_dirs/run_logs/healthy_0 tests/tools/run_logs/healthy_0.json
"""

import json
import sys
from pathlib import Path

KEPT = ("learning_rate", "max_steps", "warmup_steps", "beta", "loss_type", "rpo_alpha", "max_skipped_share", "fp16")
FIGURES = 6  # significant ones of a number


def shorter(entry):
    return {name: float(f"{value:.{FIGURES}g}") if isinstance(value, float) else value for name, value in entry.items()}


def main():
    run, out = map(Path, sys.argv[1:])
    state = json.loads((run / "trainer_state.json").read_text())
    training = json.loads((run / "settings.json").read_text())["training"]
    kept = {name: training[name] for name in KEPT if name in training}
    log = [json.dumps(shorter(entry)) for entry in state["log_history"]]
    lines = ",\n".join(log)
    settings = json.dumps({"training": kept})
    out.write_text(
        f'{{"global_step": {state["global_step"]}, "settings": {settings},\n"log_history": [\n{lines}\n]}}\n'
    )


if __name__ == "__main__":
    main()
