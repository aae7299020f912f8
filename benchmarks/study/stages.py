"""The stages of one seed of the study; each is left out when its output is whole, so a stopped study goes on.

data -> the base on held-out questions -> samples -> pairs -> per arm: train, evaluate. All by the tools that users run,
called in one process, so that libraries are imported once.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.arms import ARMS, Arm
from benchmarks.study.measures import measure
from data.make_visual_reasoning import make_visual_reasoning
from data.make_visual_reasoning import parse_arguments as data_arguments
from internvl_chat.train_mpo import main as train
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as make_pairs

TRAIN = (
    "--force_image_size 56 --max_dynamic_patch 1 --max_seq_length 512 --grad_checkpoint False --report_to none "
    "--save_strategy no --disable_tqdm True --per_device_train_batch_size 24 --weight_decay 0.05 --warmup_ratio 0.05 "
    "--lr_scheduler_type cosine --logging_steps 10 --overwrite_output_dir True"
)
FORMAT_PAIRS = "_format_rules"


@dataclass(frozen=True)
class Settings:
    """Sizes of the study, the same for all seeds and arms."""

    base: Path
    out: Path
    prompts: int
    held_out: int
    samples: int
    pairs_per_prompt: int
    steps: int
    learning_rate: float

    def folder(self, seed: int) -> Path:
        """Everything about one seed."""
        return self.out / f"seed{seed}"


def once(path: Path, stage: Callable[[], Any]) -> dict[str, Any]:
    """What `path` holds, or what the stage returns, written there when it is whole."""
    if not path.is_file():
        start = time.perf_counter()
        found = {**(stage() or {}), "seconds": round(time.perf_counter() - start, 1)}
        whole = path.with_suffix(".tmp")
        whole.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        whole.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def prepare(settings: Settings, seed: int) -> None:
    """Data, samples and pairs of one seed."""
    folder = settings.folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    once(folder / "data.json", lambda: _draw(settings, seed))
    once(folder / "sampled.json", lambda: _sample(settings, seed))


def _draw(settings: Settings, seed: int) -> None:
    data = settings.folder(seed) / "data"
    shutil.rmtree(data, ignore_errors=True)
    sizes = f"--pairs {settings.prompts} --held_out {settings.held_out} --seed {1000 + seed}"
    make_visual_reasoning(data_arguments(["--out", str(data), *sizes.split()]))


def _sample(settings: Settings, seed: int) -> dict[str, Any]:
    folder = settings.folder(seed)
    sampled, pairs = folder / "sampled", folder / "pairs"
    for old in (sampled, pairs):
        shutil.rmtree(old, ignore_errors=True)
    flags = f"--num-return-sequences {settings.samples} --dynamic --max-num 1 --max-new-tokens 96 --batch-size 16"
    prompts = ["--prompt-path", folder / "data" / "train_en_prompts.jsonl", "--out-dir", sampled]
    engine = ["--checkpoint", settings.base, "--engine", "transformers", "--seed", seed]
    sample([str(word) for word in [*prompts, *engine, *flags.split()]])
    limits = ["--num-pairs-per-key", settings.pairs_per_prompt, "--num-workers", 1]
    make_pairs([str(word) for word in ["--data-dir", sampled, "--save-dir", pairs, *limits]])
    meta = json.loads((pairs / "meta.json").read_text(encoding="utf-8"))
    return {name: entry["length"] for name, entry in meta.items()}


def measure_base(settings: Settings, seed: int) -> dict[str, Any]:
    """Figures of the base on the held-out questions of the seed."""
    folder = settings.folder(seed)
    return once(folder / "base.json", lambda: measure(settings.base, settings.base, folder))


def run_arm(settings: Settings, seed: int, name: str) -> dict[str, Any]:
    """Train one arm and measure it; its weights go when the figures are there."""
    run = train_arm(settings, seed, name)
    found = once(run.with_suffix(".json"), lambda: measure(run, settings.base, settings.folder(seed)))
    (run / "model.safetensors").unlink(missing_ok=True)
    return found


def train_arm(settings: Settings, seed: int, name: str) -> Path:
    """Train one of ARMS; returns the folder of its checkpoint."""
    run = settings.folder(seed) / "runs" / name.replace(" ", "_")
    once(run.with_suffix(".train.json"), lambda: _train(settings, seed, ARMS[name], run))
    return run


def _train(settings: Settings, seed: int, arm: Arm, run: Path) -> dict[str, Any]:
    folder = settings.folder(seed)
    shutil.rmtree(run, ignore_errors=True)
    reference = "" if "--reference" in arm.flags else f"--reference cache --reference_cache_dir {folder / 'reference'}"
    amount = f"--max_steps {settings.steps} --learning_rate {settings.learning_rate} --seed {seed}"
    places = f"--model_name_or_path {settings.base} --meta_path {pairs_of(arm, folder)} --output_dir {run}"
    train([*places.split(), *TRAIN.split(), *amount.split(), *reference.split(), *arm.flags.split()])
    log = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    last = next(entry for entry in reversed(log) if "loss" in entry)
    figures = {name: last.get(f"rewards/{name}") for name in ("margins", "accuracies", "chosen", "rejected")}
    return {**figures, "nll": last["nll_loss"], "pairs_per_second": log[-1]["train_samples_per_second"]}


def pairs_of(arm: Arm, folder: Path) -> Path:
    """meta.json of the pairs that the arm trains on; those made of others are written when first asked for."""
    own = folder / "pairs" / "meta.json"
    if arm.pairs == "gold":
        return folder / "data" / "pairs.json"
    if arm.pairs == "own":
        return own
    meta = json.loads(own.read_text(encoding="utf-8"))
    path = own.with_name(f"meta_{arm.pairs}.json")
    if arm.pairs == "correctness":
        meta = {name: entry for name, entry in meta.items() if not name.endswith(FORMAT_PAIRS)}
    else:
        meta = {
            name: {**entry, "annotation": _swap(Path(entry["annotation"]), own.parent)} for name, entry in meta.items()
        }
    path.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return path


def _swap(annotation: Path, folder: Path) -> str:
    """Name of a copy of the pairs with chosen and rejected exchanged."""
    rows = [json.loads(line) for line in (folder / annotation).read_text(encoding="utf-8").splitlines()]
    swapped = (folder / annotation).with_suffix(".swapped.jsonl")
    lines = (json.dumps({**row, "chosen": row["rejected"], "rejected": row["chosen"]}) + "\n" for row in rows)
    swapped.write_text("".join(lines), encoding="utf-8")
    return str(swapped.relative_to(folder))
