"""One GPU at work: packed attention at published sizes, and whole steps with clipping and optimizer.

    python benchmarks/bench_gpu.py                                # both parts, a few minutes on a card of 80 GB
    python benchmarks/bench_gpu.py --part attention
    python benchmarks/bench_gpu.py --device cpu --part steps      # the same code on toy sizes

Attention runs in bfloat16 by the variable-length kernel and in groups of sdpa; `tests/test_gpu.py` has their errors. A
step is forward, loss, backward, clipping and AdamW with every layer checkpointed: float32 weights under autocast, as
without DeepSpeed, and bfloat16 ones. `busy_seconds` is the time of all kernels of a step; `waits` has the lines at
which the host waits for the GPU. `bench_training.py --device cuda` compares steps with other stacks. Writes
results/gpu.json, on a CPU gpu_cpu.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_training import PEAK_TFLOPS, rounded
from machine import write_results
from training_forms import FORMS, SCRATCH, TrainedStep, form_work
from training_model import SIZES, Shape

from internvl_chat.packed import attention
from internvl_chat.packed.layout import Segment, build_layout, map_tensors

HEADS = {"1B": (14, 2, 64), "2B": (16, 8, 128), "8B": (32, 8, 128), "38B": (40, 8, 128)}  # of queries, of keys, width
ROWS = {"usual": (1855, (250, 400)), "long": (3391, (4800, 1024)), "16 answers": (1855, (250,) * 16)}
TOY_HEADS, TOY_ROWS = {"toy": (4, 2, 64)}, {"toy": (40, (5, 9))}
FORM = "ours_model_reference"


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median seconds of a call, the device waited for, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[2:])


def row_of_segments(prefix: int, answers: Sequence[int]) -> list[Segment]:
    """A prompt and its answers, one behind the other."""
    segments = [Segment(0, prefix)]
    for length in answers:
        segments.append(Segment(segments[-1].start + segments[-1].length, length, 0, prefix))
    return segments


@contextmanager
def in_groups() -> Iterator[None]:
    """Within, packed attention does without the kernel."""
    usual = attention.varlen_refusal
    attention.varlen_refusal = lambda *_, **__: "groups are measured"
    try:
        yield
    finally:
        attention.varlen_refusal = usual


def attend_once(heads: tuple[int, int, int], segments: Sequence[Segment], device: torch.device) -> dict[str, float]:
    """Seconds and TFLOP/s of packed attention, forward alone and with backward."""
    layout = map_tensors(build_layout(segments), lambda tensor: tensor.to(device))
    query_heads, kv_heads, width = heads
    length = segments[-1].start + segments[-1].length
    sizes = (query_heads, kv_heads, kv_heads)
    states = [torch.randn(1, n, length, width, device=device).bfloat16().requires_grad_() for n in sizes]

    def forward() -> torch.Tensor:
        return attention.shared_prefix_attention(torch.nn.Module(), *states, None, shared_prefix=layout)[0]

    seen = sum(s.length * s.prefix_length + s.length * (s.length + 1) / 2 for s in segments)
    tflop = 4 * seen * query_heads * width / 1e12
    alone = seconds_of(forward, device)
    both = seconds_of(lambda: torch.autograd.grad(forward().float().square().sum(), states), device)
    return {"forward_seconds": alone, "seconds": both, "forward_tflops": tflop / alone, "tflops": 3.5 * tflop / both}


def attention_figures(device: torch.device) -> dict[str, Any]:
    """Of each size and row: the kernel, where it is in use, and groups."""
    on_gpu = device.type == "cuda"
    refusal = attention.varlen_refusal(device, torch.bfloat16)
    figures: dict[str, Any] = {"kernel_refused": refusal}
    for row, (prefix, answers) in (ROWS if on_gpu else TOY_ROWS).items():
        for size, heads in (HEADS if on_gpu else TOY_HEADS).items():
            segments = row_of_segments(prefix, answers)
            found = {} if refusal else {"kernel": attend_once(heads, segments, device)}
            with in_groups():
                found["groups"] = attend_once(heads, segments, device)
            figures[f"{size}, {row}"] = found
    return figures


def step_figures(device: torch.device) -> dict[str, Any]:
    """Of each size and number format: time, useful FLOP/s and, on a GPU, MFU, peak memory, busy time and waits."""
    figures = {}
    for size in ("2B", "1B") if device.type == "cuda" else ("toy",):
        usual = Shape(7, 250, 400) if device.type == "cuda" else Shape(2, 25, 40)
        shape = replace(usual, tile_tokens=SIZES[size].tile_tokens)
        work, with_reference = form_work(FORM, shape)
        useful = work.useful(SIZES[size], with_reference=with_reference)
        for weights in (torch.float32, torch.bfloat16):
            step = TrainedStep(
                FORMS[FORM](SIZES[size], shape, device, weights), device, autocast=weights == torch.float32
            )
            seconds = seconds_of(step, device, 5)
            found = {"seconds": seconds, "useful_tflops": useful / seconds / 1e12}
            figures[f"{size}, {weights}".replace("torch.", "")] = found | gpu_figures(step, found["useful_tflops"])
    return figures


def gpu_figures(step: TrainedStep, tflops: float) -> dict[str, Any]:
    """What only a GPU tells of a step; {} on a CPU."""
    if step.device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(step.device)
    peak = next((limit for part, limit in PEAK_TFLOPS.items() if part in name), None)
    torch.cuda.reset_peak_memory_stats()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in recorded.key_averages()) / 1e6
    memory = torch.cuda.max_memory_allocated() / 2**30
    return {"mfu": tflops / peak if peak else None, "peak_gib": memory, "busy_seconds": busy, "waits": waits_of(step)}


def waits_of(step: TrainedStep) -> dict[str, int]:
    """file:line -> how often the host waits there for the GPU in one step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return dict(Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in told))


PARTS = {"attention": attention_figures, "steps": step_figures}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the parts and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="both without it")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args(argv)
    SCRATCH.mkdir(exist_ok=True)
    torch.manual_seed(0)
    parts = [args.part] if args.part else list(PARTS)
    figures = {part: PARTS[part](torch.device(args.device)) for part in parts}
    write_results("gpu" if args.device == "cuda" else "gpu_cpu", rounded(figures))


if __name__ == "__main__":
    main()
