"""Whether the guard on held-out answers stops training that makes a model worse, and leaves healthy runs alone.

    python benchmarks/guard_runs.py --seeds 0 1 2
    python benchmarks/guard_runs.py --short                a minute, nothing written: generated pairs, few steps

For each seed the pictures, questions, samples and pairs of the quickstart; then MPO with its settings on these pairs,
and on the same with chosen and rejected exchanged, both under `--eval_prompts` at its defaults. A stopped command goes
on behind its last whole stage. Writes results/guard_runs.json; exit code 1 unless every exchanged run was stopped
before half of its steps and no healthy one was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import write_results

ROOT = Path(__file__).parents[1]
BASE = ROOT / "ckpt" / "tiny-base"
PIPELINE = "tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness"
FLAGS = (
    "--force_image_size 56 --max_dynamic_patch 1 --max_seq_length 512 --grad_checkpoint False --report_to none "
    "--save_strategy no --lr_scheduler_type cosine --per_device_train_batch_size 24 "
    "--weight_decay 0.05 --warmup_ratio 0.05 --eval_max_new_tokens 96 --overwrite_output_dir True"
)
SHOWN = ("step", "eval_accuracy", "eval_accuracy_change", "eval_accuracy_p", "eval_logps/gap_change")


@dataclass(frozen=True)
class Size:
    """Pictures to train on and held out, steps, rate, steps between looks, questions of a look; are pairs sampled?"""

    prompts: int = 1000
    held_out: int = 500
    steps: int = 100
    rate: float = 1.5e-4
    every: int = 10
    questions: int = 128
    is_sampled: bool = True


SHORT = Size(prompts=160, held_out=96, steps=17, rate=5e-4, every=8, questions=96, is_sampled=False)


def run(*words: str | Path) -> int:
    """Run a command of the repository; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment).returncode


def pairs_of(folder: Path, seed: int, size: Size) -> Path:
    """meta.json of a seed's pairs, made if it is not there: of the base's own answers, or as generated."""
    data = folder / "data"
    if not (data / "held_out_en_prompts.jsonl").is_file():
        counts = ("--pairs", str(size.prompts), "--held_out", str(size.held_out), "--seed", f"1{seed}")
        run("data/make_visual_reasoning.py", "--out", data, *counts)
    meta = folder / "pairs" / "meta.json" if size.is_sampled else data / "pairs.json"
    if not meta.is_file():
        asked = ("--prompt-path", data / "train_en_prompts.jsonl", "--out-dir", folder / "sampled", "--seed", str(seed))
        how = "--num-return-sequences 8 --dynamic --max-num 1 --max-new-tokens 96 --engine transformers --batch-size 16"
        run(f"{PIPELINE}.py", "--checkpoint", BASE, *asked, *how.split())
        pairing = ("--data-dir", folder / "sampled", "--save-dir", folder / "pairs", "--num-pairs-per-key", "2")
        run(f"{PIPELINE}_postprocess.py", *pairing)
    return meta


def exchanged(meta: Path, folder: Path) -> Path:
    """The same pairs with chosen and rejected exchanged; their meta.json."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = json.loads(meta.read_text(encoding="utf-8"))
    for name, entry in entries.items():
        rows = [json.loads(line) for line in (meta.parent / entry["annotation"]).read_text("utf-8").splitlines()]
        turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned), encoding="utf-8")
        entry |= {"annotation": f"{name}.jsonl", "root": str((meta.parent / entry["root"]).resolve())}
    (folder / "meta.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder / "meta.json"


def train(meta: Path, out: Path, held_out: Path, seed: int, size: Size) -> dict[str, Any]:
    """Train with the guard unless that was done; whether it was stopped, and what it saw at each look."""
    done = out / "exit_code"
    if not done.is_file():
        looks = ("--eval_prompts", held_out, "--eval_steps", str(size.every), "--eval_questions", str(size.questions))
        steps = ("--max_steps", str(size.steps), "--learning_rate", str(size.rate), "--logging_steps", "10")
        how = ("--seed", str(seed), "--reference", "cache")
        where = ("--model_name_or_path", BASE, "--meta_path", meta, "--output_dir", out)
        code = run("-m", "internvl_chat.train_mpo", *where, *FLAGS.split(), *steps, *how, *looks)
        done.write_text(str(code), encoding="utf-8")
    log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seen = [{name: entry[name] for name in SHOWN} for entry in log if "eval_accuracy" in entry]
    stopped = seen[-1]["step"] if done.read_text() == "1" else None
    return {"stopped_at": stopped, "steps": size.steps, "exit_code": int(done.read_text()), "looks": seen}


def judge(runs: dict[str, dict[str, Any]]) -> bool:
    """Whether a seed's exchanged run was stopped before half of its steps, and its healthy one came to its end."""
    bad, healthy = runs["exchanged"], runs["healthy"]
    return healthy["exit_code"] == 0 and bad["stopped_at"] is not None and bad["stopped_at"] < bad["steps"] / 2


def runs_of(folder: Path, seed: int, size: Size) -> dict[str, dict[str, Any]]:
    """The healthy run of a seed and the exchanged one."""
    meta = pairs_of(folder, seed, size)
    metas = {"healthy": meta, "exchanged": exchanged(meta, folder / "turned")}
    held_out = folder / "data" / "held_out_en_prompts.jsonl"
    return {kind: train(of_kind, folder / kind, held_out, seed, size) for kind, of_kind in metas.items()}


def main() -> int:
    """Run what is not there yet, write the figures of all; 0 where every run ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--short", action="store_true", help="small sizes; prints the figures and writes none")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/guard_runs"), help="folder of all runs")
    args = parser.parse_args()
    size, out = (SHORT if args.short else Size()), args.out.resolve()
    found = {str(seed): runs_of(out / f"seed{seed}", seed, size) for seed in args.seeds}
    if args.short:
        print(json.dumps(found))
    else:
        write_results("guard_runs", {"seeds": found})
    return 0 if all(map(judge, found.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
