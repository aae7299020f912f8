"""bfloat16 beside float32 on this CPU: is it worth it, and for which model?

    python benchmarks/bench_bfloat16.py [--rounds 3]         three minutes of one core

Products of a batch of tokens with a layer's weights, optimization steps of MPO (float32 weights, as of `--bf16 True`
under autocast, and without), and answers of the embedded engine, each in both formats by turns. Models: `quickstart`
has the shape of ckpt/tiny-base, `study` that of SmolLM2-135M with a fifth of its layers, `wide` layers as of a 2B; the
engine's have a vocabulary of 577.
Ratios are of the process's own CPU seconds, which do not count the time that others took. `instructions` are those
that make bfloat16 fast; a CPU without them has other ratios. Writes benchmarks/results/bfloat16.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from bench_sampling import Sampler
from machine import write_results
from training_forms import SCRATCH, TrainedStep, our_step
from training_model import Shape, Size

from tools.checkpoints.tiny import make_tiny_checkpoint
from tools.make_tiny_checkpoint import parse_arguments as parse_checkpoint
from tools.reasoning_data_pipeline.engines.protocol import Request

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INSTRUCTIONS = ("avx512f", "avx512_bf16", "amx_bf16")
TOKENS = 512  # of a product
EYES = {"vision_width": 96, "vision_mlp": 256, "vision_heads": 4, "vision_layers": 2, "tile_side": 56}
SIZES = {
    "quickstart": Size(**EYES, width=128, mlp=352, heads=4, kv_heads=2, layers=3, vocabulary=577),
    "study": Size(**EYES, width=576, mlp=1536, heads=9, kv_heads=3, layers=6, vocabulary=49154),
    "wide": Size(**EYES, width=2048, mlp=5632, heads=16, kv_heads=8, layers=2, vocabulary=8192),
}
PAIRS = {"quickstart": 24, "study": 8, "wide": 8}  # of a step
ANSWERS = 64  # rows of the engine


def instructions() -> dict[str, bool]:
    """Which of the instructions the CPU has; of others than x86 nothing is known."""
    info = Path("/proc/cpuinfo")
    known = set(info.read_text().split()) if info.is_file() else set()
    return {name: name in known for name in INSTRUCTIONS}


def cpu_seconds(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of this process in each function, by turns, after an untimed call."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if number:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def compared(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds in either format, and how many times as fast the second is."""
    found = cpu_seconds(functions, rounds)
    seconds = {f"{name}_seconds": float(f"{value:.4g}") for name, value in found.items()}
    return seconds | {"speed": round(found["float32"] / found["bfloat16"], 2)}


def measure_product(size: Size, rounds: int) -> dict[str, float]:
    """TOKENS rows through the widest weights of a layer, 20 times."""

    def product(dtype: torch.dtype) -> Callable[[], object]:
        rows, weights = torch.randn(TOKENS, size.width, dtype=dtype), torch.randn(size.mlp, size.width, dtype=dtype)
        return lambda: [torch.nn.functional.linear(rows, weights) for _ in range(20)]

    return compared({name: product(dtype) for name, dtype in FORMATS.items()}, rounds)


def measure_step(size: Size, pairs: int, rounds: int) -> dict[str, float]:
    """Forward, loss, backward and update on pairs of two short answers."""
    shape, device = Shape(1, 40, 40, pairs=pairs, tile_tokens=size.tile_tokens), torch.device("cpu")
    steps = {
        name: TrainedStep(our_step(size, shape, device, torch.float32, cached=True), device, autocast=name != "float32")
        for name in FORMATS
    }
    return compared(steps, rounds)


def measure_answers(size: Size, folder: Path, rounds: int) -> dict[str, float]:
    """ANSWERS sampled answers to one prompt, by the embedded engine; the model is written to `folder`."""
    words = (
        f"--hidden_size {size.width} --intermediate_size {size.mlp} --num_hidden_layers {size.layers} "
        f"--num_attention_heads {size.heads} --num_key_value_heads {size.kv_heads} --image_size 56"
    )
    make_tiny_checkpoint(parse_checkpoint([*words.split(), "--out", str(folder)]))
    request = Request("0", "How many?" * 20, {sample: sample for sample in range(ANSWERS)})
    samplers = {name: Sampler(folder, max_new_tokens=16, max_rows=ANSWERS) for name in FORMATS}
    for name, dtype in FORMATS.items():
        samplers[name].model.to(dtype)
    tokens = {name: sum(map(len, sampler.by_engine([request]))) for name, sampler in samplers.items()}
    runs = {name: lambda sampler=sampler: sampler.by_engine([request]) for name, sampler in samplers.items()}
    found = cpu_seconds(runs, rounds)
    rates = {name: tokens[name] / found[name] for name in FORMATS}
    shown = {f"{name}_tokens_per_second": round(rate, 1) for name, rate in rates.items()}
    return shown | {"speed": round(rates["bfloat16"] / rates["float32"], 2)}


def main() -> None:
    """Measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    SCRATCH.mkdir(exist_ok=True)
    figures: dict[str, Any] = {"instructions": instructions()}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = {
                "product": measure_product(size, rounds),
                "training step": measure_step(size, PAIRS[name], rounds),
                "answers": measure_answers(size, Path(folder) / name, rounds),
            }
        print(name, figures[name], flush=True)
    write_results("bfloat16", figures)


if __name__ == "__main__":
    main()
