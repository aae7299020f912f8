"""Optimization steps of MPO side by side: the original's form, TRL's DPOTrainer, and ours; same weights, rows, loss.

    python benchmarks/bench_training.py                      # the table: about 5 minutes on one core
    python benchmarks/bench_training.py --part run           # whole runs, cache filled and steps; 3 minutes
    python benchmarks/bench_training.py --part sweeps        # tiles, answer length, pairs per prompt, vocabulary
    python benchmarks/bench_training.py --part profile       # where the time of each form goes
    python benchmarks/bench_training.py --device cuda --size 2B     # published shapes as users train them, MFU

A step is forward, loss and backward, with the vision tower trained and every layer checkpointed. On a GPU it is the
whole step of a launcher's run without DeepSpeed: float32 weights under bfloat16 autocast, clipping and AdamW; one form
is in memory at a time. `--bare True` leaves clipping and update out, as on a CPU, where forms take turns in one process
and medians are compared. `seconds` are of the wall clock; `cpu_seconds` of the process, which do not count
the time that other processes took, and which the ratios of a CPU are taken from. `bound` is the ratio of FLOPs
(`training_flops`), `share` how much of it is reached. Forms in `training_forms`, runs in `training_runs`, models in
`training_model`. Writes benchmarks/results/training*.json.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from machine import PACKAGES, describe_machine, interleaved_medians, write_results
from training_forms import FORMS, SCRATCH, Step, TrainedStep, form_work
from training_model import SIZES, Shape, Size, with_vocabulary
from training_runs import measure_runs

TABLE = (Shape(7, 250, 400), Shape(4, 500, 700))  # short answers, and long chains of thought
GROUPED = Shape(7, 250, 400, pairs=4, same_prompt=True)
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "B200": 2250}  # dense bf16, of the data sheets
BASELINES = ("original", "trl", "trl_gpu_form")
VOCABULARIES = (32_000, 152_000)


class Timed:
    """A step that writes down its CPU seconds, the loss it had and, on a GPU, its peak memory above what was there."""

    def __init__(self, step: Callable[[], float], device: torch.device) -> None:
        self.step, self.device = step, device
        self.cpu_seconds: list[float] = []
        self.loss, self.peak_bytes = 0.0, 0

    def __call__(self) -> None:
        """Run the step once."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.process_time()
        self.loss = self.step()
        self.cpu_seconds.append(time.process_time() - start)
        if self.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated() - before

    def cpu_median(self) -> float:
        """Median CPU seconds without the first step."""
        return statistics.median(self.cpu_seconds[1:])


def measure(
    size: Size, forms: Mapping[str, tuple[str, Shape]], rounds: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Figures of forms that take turns, label -> (name in FORMS, shape), and ours compared with the baselines."""
    device = torch.device(args.device)
    makers = {label: partial(make_step, form, size, shape, args) for label, (form, shape) in forms.items()}
    steps, seconds = (run_apart if device.type == "cuda" else run_in_turns)(makers, rounds, device)
    figures = {}
    for label, (form, shape) in forms.items():
        shape = replace(shape, tile_tokens=size.tile_tokens)
        work, with_reference = form_work(form, shape)
        flops = work.step(size, with_reference=with_reference)
        timed = steps[label]
        figures[label] = {
            "seconds": seconds[label],
            "cpu_seconds": timed.cpu_median(),
            "pairs_per_second": shape.pairs / seconds[label],
            "tokens_per_second": shape.tokens / seconds[label],
            "gflop": flops / 1e9,
            "gflop_per_pair": flops / 1e9 / shape.pairs,
            "loss": timed.loss,
            **gpu_figures(timed, work.useful(size, with_reference=with_reference) / seconds[label]),
        }
    clock = "cpu_seconds" if device.type == "cpu" else "seconds"
    pairs = {label: shape.pairs for label, (_, shape) in forms.items()}
    return {"forms": figures, "ratios": ratios(figures, pairs, clock)}


def make_step(form: str, size: Size, shape: Shape, args: argparse.Namespace) -> Step | TrainedStep:
    """A form at work, in the number format and with the update that the flags ask for."""
    device, autocast = torch.device(args.device), args.dtype == "autocast"
    dtype = torch.float32 if autocast else getattr(torch, args.dtype)
    step = FORMS[form](size, replace(shape, tile_tokens=size.tile_tokens), device, dtype)
    return step if args.bare else TrainedStep(step, device, autocast=autocast)


def run_in_turns(makers: Mapping[str, Callable[[], Step]], rounds: int, device: torch.device) -> tuple[dict, dict]:
    """The steps by label after so many rounds, one of each per round, and their median seconds."""
    steps = {label: Timed(make(), device) for label, make in makers.items()}
    return steps, interleaved_medians(steps, rounds)


def run_apart(makers: Mapping[str, Callable[[], Step]], rounds: int, device: torch.device) -> tuple[dict, dict]:
    """The same, one after the other, each with the memory to itself."""
    steps, seconds = {}, {}
    for label, make in makers.items():
        steps[label] = Timed(make(), device)
        seconds |= interleaved_medians({label: steps[label]}, rounds)
        del steps[label].step
        gc.collect()
        torch.cuda.empty_cache()
    return steps, seconds


def gpu_figures(timed: Timed, useful_flops_per_second: float) -> dict[str, float]:
    """Peak memory above weights and standing gradients, and MFU where the GPU's peak is known; {} on a CPU."""
    if timed.device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(timed.device)
    peak = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)
    mfu = {} if peak is None else {"mfu": useful_flops_per_second / peak / 1e12}
    return {"peak_mib": timed.peak_bytes / 2**20, **mfu}


def ratios(figures: Mapping[str, Mapping[str, float]], pairs: Mapping[str, int], clock: str) -> dict[str, Any]:
    """Time per pair of each baseline over that of each of ours, beside the same ratio of FLOPs."""
    compared: dict[str, Any] = {}
    for ours in (label for label in figures if label.startswith("ours")):
        for baseline in (label for label in BASELINES if label in figures):
            per_pair = {label: figures[label][clock] / pairs[label] for label in (ours, baseline)}
            speedup = per_pair[baseline] / per_pair[ours]
            bound = figures[baseline]["gflop_per_pair"] / figures[ours]["gflop_per_pair"]
            wall = {label: figures[label]["seconds"] / pairs[label] for label in (ours, baseline)}
            compared[f"{ours} / {baseline}"] = {
                "speedup": speedup,
                "speedup_wall": wall[baseline] / wall[ours],
                "bound": bound,
                "share": speedup / bound,
            }
    return compared


def all_forms(shape: Shape, args: argparse.Namespace) -> dict[str, tuple[str, Shape]]:
    """Every form that is asked for, on one shape."""
    return {form: (form, shape) for form in args.forms}


def table(size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """The fixed shapes; at 7 tiles also 4 pairs of one prompt, whose baselines run the pairs one after the other."""
    results = []
    for shape in TABLE:
        forms = all_forms(shape, args)
        if shape == TABLE[0] and "ours_cached_reference" in forms:
            forms["ours_grouped"] = ("ours_cached_reference", GROUPED)
        results.append({"shape": described(shape), **measure(size, forms, args.rounds, args)})
    return {"shapes": results}


def sweeps(size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """How time grows with tiles, answer length, pairs per prompt and vocabulary; fewer rounds."""
    rounds = max(1, args.rounds // 2 + 1)

    def points(named: Sequence[tuple[str, Size, Mapping[str, tuple[str, Shape]]]]) -> list[dict[str, Any]]:
        return [{"point": point, **measure(of_size, forms, rounds, args)} for point, of_size, forms in named]

    shortest = ("original", "ours_cached_reference")
    lengths = [(n, {f: (f, Shape(4, n, n)) for f in shortest}) for n in (125, 500, 1000)]
    grouped = {
        f"ours_{n}_pairs": ("ours_cached_reference", Shape(7, 250, 400, pairs=n, same_prompt=True))
        for n in (1, 2, 4, 8)
    }
    vocabularies = [(v, with_vocabulary(size, v, 512)) for v in VOCABULARIES]
    return {
        "tiles": points([(str(n), size, all_forms(Shape(n, 250, 400), args)) for n in (1, 4, 7, 13)]),
        "answer_length": points([(str(n), size, forms) for n, forms in lengths]),
        "pairs_per_prompt": points([("7 tiles", size, {"original": ("original", Shape(7, 250, 400)), **grouped})]),
        "vocabulary": points([(str(v), wide, all_forms(Shape(1, 250, 400), args)) for v, wide in vocabularies]),
    }


def profile(size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """Share of each operator in the time of a step at 7 tiles, the largest first."""
    device, shares = torch.device(args.device), {}
    for form in args.forms:
        step = make_step(form, size, TABLE[0], args)
        step()
        with torch.profiler.profile() as recorded:
            step()
        kind = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
        events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, kind))
        total = sum(getattr(event, kind) for event in events)
        shares[form] = {event.key: round(getattr(event, kind) / total, 4) for event in events[:15]}
    return {"share_of_time": shares}


def described(shape: Shape) -> dict[str, Any]:
    """A shape for the results."""
    return {**asdict(shape), "prompt_length": shape.prompt_length}


def run(size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """Whole runs; fewer rounds, as each holds several steps."""
    return {"shape": described(TABLE[0]), **measure_runs(size, TABLE[0], max(1, args.rounds // 2 + 1))}


PARTS: dict[str, Callable[[Size, argparse.Namespace], dict[str, Any]]] = {
    "table": table,
    "run": run,
    "sweeps": sweeps,
    "profile": profile,
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags; what depends on the device is completed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="table")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=SIZES, help="cpu on a CPU, 2B on a GPU")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "autocast"), help="float32; autocast on a GPU")
    parser.add_argument("--bare", choices=("True", "False"), help="no clipping, no update; True on a CPU")
    parser.add_argument("--forms", nargs="+", choices=FORMS, help="all; on a GPU TRL has one form")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each form; sweeps take half as many")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--name", help="of the results; training, with the part and the GPU's size")
    args = parser.parse_args(argv)
    on_gpu = args.device == "cuda"
    args.size = args.size or ("2B" if on_gpu else "cpu")
    args.dtype = args.dtype or ("autocast" if on_gpu else "float32")
    args.forms = args.forms or [form for form in FORMS if not (on_gpu and form == "trl_gpu_form")]
    args.bare = args.bare == "True" if args.bare else not on_gpu
    if args.bare and args.dtype == "autocast":
        parser.error("--dtype autocast goes with --bare False: bare forms run in the type of their weights")
    if args.part == "run" and on_gpu:
        parser.error("--part run compares seconds of a CPU: without --device cuda")
    parts = ["training", *([] if args.part == "table" else [args.part]), *([f"cuda_{args.size}"] if on_gpu else [])]
    args.name = args.name or "_".join(parts)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one part and write it down."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    SCRATCH.mkdir(exist_ok=True)
    before = describe_machine((*PACKAGES, "trl", "accelerate"))
    figures = PARTS[args.part](SIZES[args.size], args)
    settings = {
        "size": args.size,
        "dtype": args.dtype,
        "bare": args.bare,
        "rounds": args.rounds,
        "threads": args.threads,
    }
    write_results(args.name, {"started_on": before, **settings, "model": asdict(SIZES[args.size]), **rounded(figures)})


def rounded(value: Any) -> Any:
    """The same figures with four significant digits, losses with nine."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: float(f"{v:.9g}") if key == "loss" else rounded(v) for key, v in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
