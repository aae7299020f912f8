"""Peak memory of a LoRA step, against the sum of what it has to hold, and against training in full.

    python benchmarks/bench_lora_memory.py    # about 5 minutes on one core; needs 8 GiB

Has to be held: the base weights once, the adapters with gradients and Adam's two moments, and the activations, which
are counted apart from that: the bytes of all tensors that autograd keeps for the backward pass, without parameters.
Measured is the highest resident set of a process of its own in its second step (VmHWM of the kernel), minus what was
resident before the model was built. Weights are random, in float32, of a model half as wide as InternVL2.5-2B with 4
layers in the vision tower and 6 in the decoder; the row is a pair over 2 tiles. Nothing is computed again in the
backward pass. Writes results/lora_memory.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_training_memory import memory_of
from machine import write_results
from torch.autograd.graph import saved_tensors_hooks
from training_forms import SCRATCH, word_tokenizer
from training_model import SIZES, Shape, Size, build_model, frozen_copy, make_batch

from internvl_chat.adapters.lora import add_adapters, lora_config
from internvl_chat.arguments import MPOConfig
from internvl_chat.model import InternVLChatModel
from internvl_chat.packed.packing import pack_batch
from internvl_chat.reference.adapter import AdapterReference
from internvl_chat.run.trainer import MultimodalDPOTrainer

RANK = 16
SHAPE = Shape(2, 250, 400)
SIZE = Size(512, 2048, 8, 4, 1024, 4096, 16, 8, 6, vocabulary=32_000)
METHODS = ("lora", "full")
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc keeps what was freed otherwise: free memory would count as used


def build_trainer(method: str, size: Size) -> MultimodalDPOTrainer:
    """A policy with adapters, which is its own reference, or a whole one beside a second model."""
    policy = build_model(size)
    reference = None if method == "lora" else frozen_copy(policy)
    if method == "lora":
        add_adapters(policy, lora_config(RANK, RANK, "base"))
    return MultimodalDPOTrainer(
        policy,
        reference,
        MPOConfig(output_dir=str(SCRATCH / "lora"), report_to="none"),
        processing_class=word_tokenizer(),
        source=SCRATCH,
        reference=AdapterReference(policy) if method == "lora" else None,
    )


class KeptBytes:
    """Counts the bytes of tensors that autograd keeps, each storage once, parameters left out."""

    def __init__(self, model: InternVLChatModel) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.kept: dict[int, int] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note the tensor, and keep it as it is."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor


def measure_here(method: str, size: Size, shape: Shape) -> dict[str, float]:
    """Two steps in this process: MiB of the peak of the second, and of the parts that it has to hold."""
    torch.set_num_threads(1)
    before = memory_of("VmRSS")
    trainer = build_trainer(method, size)
    model: Any = trainer.model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    batch = pack_batch(make_batch(replace(shape, tile_tokens=size.tile_tokens), size))
    counter = KeptBytes(model)
    for _ in range(2):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM back to VmRSS
        counter.kept.clear()
        with saved_tensors_hooks(counter, lambda kept: kept):
            loss = trainer.compute_loss(model.train(), dict(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    numbers = sum(p.numel() for p in trained)
    parts = {
        "base_weights": 4 * (sum(p.numel() for p in model.parameters()) - (numbers if method == "lora" else 0)),
        "trained_weights_gradients_moments": (16 if method == "lora" else 12) * numbers,
        "reference": 0 if method == "lora" else 4 * numbers,
        "activations": sum(counter.kept.values()),
    }
    return {name: value / 2**20 for name, value in {"peak": memory_of("VmHWM") - before, **parts}.items()}


def measure(method: str, size_name: str) -> dict[str, float]:
    """The same in a new process, with the share by which the peak is above the sum of the parts."""
    command = [sys.executable, __file__, "--size", size_name, "--child", method]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **GIVE_BACK})
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}: {run.stderr[-2000:]}")
    figures = json.loads(run.stdout.splitlines()[-1])
    parts = sum(value for name, value in figures.items() if name != "peak")
    return {
        **{f"{name}_mib": round(value, 1) for name, value in figures.items()},
        "peak_over_parts": round(figures["peak"] / parts, 3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure in child processes and write the results; with --child be such a process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("half", *SIZES), default="half", help="of the model")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    size = SIZE if args.size == "half" else SIZES[args.size]
    if args.child:
        SCRATCH.mkdir(exist_ok=True)
        print(json.dumps(measure_here(args.child, size, SHAPE)))
        return
    figures = {method: measure(method, args.size) for method in METHODS}
    ratio = figures["full"]["peak_mib"] / figures["lora"]["peak_mib"]
    write_results("lora_memory", {"rank": RANK, **figures, "full_over_lora": round(ratio, 2)})


if __name__ == "__main__":
    main()
