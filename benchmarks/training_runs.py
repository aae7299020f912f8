"""Whole runs in the forms that are compared: the reference cache is filled, then an epoch of steps.

`original` needs no cache: its reference model runs in every step. Ours fill as `train_mpo` does, all pairs of a prompt,
and neighbouring rows of an image, in one batch. Rows are one length and all different; a step is forward, loss and
backward, without clipping and update, which cost all forms the same. So weights stay, and all forms of the same rows
have the same mean loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from training_flops import packed_work, padded_work
from training_forms import checkpointed, filled_reference, original_loss, our_trainer, padded_rows
from training_model import IMAGE_TOKEN, Shape, Size, build_model, frozen_copy, make_rows

from internvl_chat.data.collator import dpo_concat_pad_data_collator
from internvl_chat.losses.mixture import RunningMean
from internvl_chat.packed.packing import pack_batch

CPU = torch.device("cpu")
EPOCHS = (1, 3)
PAIRS = 4  # of a prompt, and questions about an image
COMPARED = {  # a form -> (whose run it is held against, how many times as fast it should be in one epoch)
    "cache": ("original", 1.8),
    "4 pairs per prompt, cache": ("original", 2.05),
    "4 pairs per prompt, grouped": ("original", 4.2),
    "4 questions per image, grouped": ("cache", 2.0),
}


@dataclass(frozen=True)
class Run:
    """A run at work: `fill` computes what the reference says, None where steps do; `epoch` returns the mean loss."""

    epoch: Callable[[], float]
    fill: Callable[[], None] | None = None


def make_runs(size: Size, shape: Shape) -> dict[str, Run]:
    """The runs by name, over PAIRS pairs of that shape."""
    several = replace(shape, pairs=PAIRS, tile_tokens=size.tile_tokens)
    apart = make_rows(several, size)
    of_prompt = make_rows(replace(several, same_prompt=True), size)
    of_image = make_rows(replace(several, same_image=True), size)
    return {
        "original": original_run(size, apart),
        "cache": our_run(size, apart, grouped=False),
        "4 pairs per prompt, cache": our_run(size, of_prompt, grouped=False),
        "4 pairs per prompt, grouped": our_run(size, of_prompt, grouped=True),
        "4 questions per image, grouped": our_run(size, of_image, grouped=True),
    }


def original_run(size: Size, rows: Sequence[dict[str, Any]]) -> Run:
    """The original's form, a pair in each step."""
    policy = checkpointed(build_model(size))
    loss = partial(original_loss, policy, frozen_copy(policy), RunningMean())
    return Run(lambda: _epoch(policy, loss, [padded_rows(dpo_concat_pad_data_collator([row])) for row in rows]))


def our_run(size: Size, rows: Sequence[dict[str, Any]], *, grouped: bool) -> Run:
    """Ours with a reference cache; all pairs in one step, or one in each."""
    trainer = our_trainer(size, CPU, torch.float32)
    model = trainer.reference

    def packed(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [pack_batch(dpo_concat_pad_data_collator(part), IMAGE_TOKEN) for part in parts]

    def fill() -> None:
        trainer.reference = filled_reference(model, packed([rows]), trainer.accelerator)

    def epoch() -> float:
        parts = [rows] if grouped else [[row] for row in rows]
        return _epoch(trainer.model, partial(trainer.compute_loss, trainer.model), packed(parts))

    return Run(epoch, fill)


def _epoch(model: torch.nn.Module, loss_of: Callable[[Any], torch.Tensor], batches: Sequence[Any]) -> float:
    """Forward and backward of all batches; their mean loss."""
    total = 0.0
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()
        total += loss.item()
    return total / len(batches)


def measure_runs(size: Size, shape: Shape, rounds: int) -> dict[str, Any]:
    """CPU seconds of a pair in each run, its fill and an epoch apart, and the ratios of whole runs.

    Runs take turns, after an untimed round of them. Two numbers of epochs are compared: `fill` once, then so many.
    """
    runs = make_runs(size, shape)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    losses = {}
    for number in range(rounds + 1):
        for name, run in runs.items():
            filled, _ = _timed(run.fill or (lambda: None))
            seconds, losses[name] = _timed(run.epoch)
            if number:
                times[name].append((filled, seconds))
    forms = {name: _figures(of_run, losses[name]) for name, of_run in times.items()}
    gflop = {name: {f"run_{n}": run_flops(name, size, shape, n) / 1e9 for n in EPOCHS} for name in runs}
    return {"pairs": PAIRS, "forms": forms, "gflop": gflop, "ratios": compare_runs(forms, gflop)}


def run_flops(name: str, size: Size, shape: Shape, epochs: int) -> float:
    """FLOPs of a pair and epoch of a run, those of filling the cache spread over so many epochs."""
    pair = replace(shape, pairs=1, tile_tokens=size.tile_tokens)
    if name == "original":
        return padded_work(pair).step(size, with_reference=True)
    shared = {"same_prompt": "per prompt" in name, "same_image": "per image" in name}
    together = replace(pair, pairs=PAIRS, **shared)
    all_pairs = packed_work(together, prompts=together.prompts)
    fill = all_pairs.step(size, with_reference=True) - all_pairs.step(size, with_reference=False)
    steps = all_pairs.step(size, with_reference=False)
    if "grouped" not in name:
        steps = PAIRS * packed_work(pair, prompts=1).step(size, with_reference=False)
    return (fill / epochs + steps) / PAIRS


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def _figures(times: Sequence[tuple[float, float]], loss: float) -> dict[str, Any]:
    """Medians, per pair."""
    fill, epoch = (median(part) / PAIRS for part in zip(*times, strict=True))
    return {"fill": fill, "epoch": epoch, **{f"run_{n}": (fill + n * epoch) / n for n in EPOCHS}, "loss": loss}


def compare_runs(forms: Mapping[str, Mapping[str, float]], gflop: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """How many times as fast a run is per pair and epoch, and by FLOPs; whether one epoch reaches its aim."""
    compared = {}
    for name, (base, aim) in COMPARED.items():
        ratios = {f"epochs_{n}": forms[base][f"run_{n}"] / forms[name][f"run_{n}"] for n in EPOCHS}
        bounds = {f"bound_{n}": gflop[base][f"run_{n}"] / gflop[name][f"run_{n}"] for n in EPOCHS}
        reached = {"aim_of_one": aim, "is_reached": ratios["epochs_1"] >= aim}
        compared[f"{name} / {base}"] = {**ratios, **bounds, **reached}
    return compared
