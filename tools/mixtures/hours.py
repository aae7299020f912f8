"""Hours of a training by the FLOPs of a checkpoint's size; loads torch, so only who asks for hours imports it."""

from __future__ import annotations

from tools.plan.model_sizes import count_parameters, find_config, meta_model
from tools.plan.work import StepLoad, step_flops


def training_hours(checkpoint: str, tokens: float, tiles: float, pairs: int, *, gpus: int, tflops: float) -> float:
    """Hours for `pairs` of so many tokens and tiles each, on `gpus` that reach `tflops` each, a reference beside.

    Raises:
        FileNotFoundError: the checkpoint is neither here nor a published one.
    """
    config, _ = find_config(checkpoint)
    row = StepLoad(round(tokens), round(tiles))
    flops = step_flops(count_parameters(meta_model(config)), config, row, recompute=True, reference=True)
    return flops * pairs / (gpus * tflops * 1e12) / 3600
