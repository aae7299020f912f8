"""The stages of one seed of the study; each is left out when its output is whole, so a stopped study goes on.

data -> the base on held-out questions -> per arm: its pairs, training, evaluation. All by the tools that users run,
called in one process, so that libraries are imported once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.study.arms import ARMS, STARTS
from benchmarks.study.measures import measure
from benchmarks.study.pairs import SOURCES
from benchmarks.study.settings import Settings, once
from data.make_visual_reasoning import make_visual_reasoning
from data.make_visual_reasoning import parse_arguments as data_arguments
from internvl_chat.train_mpo import main as train

TRAIN = (
    "--force_image_size 56 --max_dynamic_patch 1 --max_seq_length 512 --grad_checkpoint False --report_to none "
    "--save_strategy no --disable_tqdm True --per_device_train_batch_size 24 --weight_decay 0.05 --warmup_ratio 0.05 "
    "--lr_scheduler_type cosine --logging_steps 10 --overwrite_output_dir True"
)


def prepare(settings: Settings, seed: int) -> None:
    """Pictures and questions of one seed."""
    settings.folder(seed).mkdir(parents=True, exist_ok=True)
    once(settings.folder(seed) / "data.json", lambda: _draw(settings, seed))


def _draw(settings: Settings, seed: int) -> None:
    data = settings.folder(seed) / "data"
    shutil.rmtree(data, ignore_errors=True)
    sizes = f"--pairs {settings.prompts} --held_out {settings.held_out} --seed {1000 + seed}"
    make_visual_reasoning(data_arguments(["--out", str(data), *sizes.split()]))


def measure_base(settings: Settings, seed: int) -> dict[str, Any]:
    """Figures of the base on the held-out questions of the seed."""
    folder = settings.folder(seed)
    return once(folder / "base.json", lambda: measure(settings.base, settings.base, folder))


def run_arm(settings: Settings, seed: int, name: str) -> dict[str, Any]:
    """Train one arm and measure it; its weights go when the figures are there and no other arm starts from them."""
    run = train_arm(settings, seed, name)
    found = once(run.with_suffix(".json"), lambda: measure(run, settings.base, settings.folder(seed)))
    if name not in STARTS:
        (run / "model.safetensors").unlink(missing_ok=True)
    return found


def train_arm(settings: Settings, seed: int, name: str) -> Path:
    """Train one of ARMS, after the one that it starts from; returns the folder of its checkpoint."""
    run, start = settings.run_of(seed, name), ARMS[name].start
    checkpoint = train_arm(settings, seed, start) if start else settings.base
    once(run.with_suffix(".train.json"), lambda: _train(settings, seed, name, checkpoint))
    return run


def _train(settings: Settings, seed: int, name: str, checkpoint: Path) -> dict[str, Any]:
    arm, run = ARMS[name], settings.run_of(seed, name)
    shutil.rmtree(run, ignore_errors=True)
    cache = settings.folder(seed) / "reference"
    reference = "" if "--reference" in arm.flags else f"--reference cache --reference_cache_dir {cache}"
    amount = f"--max_steps {arm.length * settings.steps} --learning_rate {settings.learning_rate} --seed {seed}"
    places = f"--model_name_or_path {checkpoint} --meta_path {SOURCES[arm.pairs](settings, seed)} --output_dir {run}"
    train([*places.split(), *TRAIN.split(), *amount.split(), *reference.split(), *arm.flags.split()])
    log = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    last = next(entry for entry in reversed(log) if "loss" in entry)
    figures = {figure: last.get(f"rewards/{figure}") for figure in ("margins", "accuracies", "chosen", "rejected")}
    return {**figures, "nll": last["nll_loss"], "pairs_per_second": log[-1]["train_samples_per_second"]}
