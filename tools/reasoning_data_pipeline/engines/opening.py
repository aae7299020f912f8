"""Which engine answers, and how it is opened: an engine and what it needs are imported only when it is asked for."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from tools.reasoning_data_pipeline.engines.protocol import Engine, EngineOptions
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine

ENGINES = ("auto", "transformers", "vllm", "lmdeploy", "server", "scripted")


def open_engine(name: str, options: EngineOptions) -> Engine:
    """Open an engine by name; "auto" is lmdeploy where it is installed and a GPU is seen, else transformers.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: no such engine, or lmdeploy is asked for where it is not installed.
    """
    name = choose_engine() if name == "auto" else name
    if name == "scripted":
        return ScriptedEngine(delay=options.scripted_delay)
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")
    if name == "lmdeploy" and importlib.util.find_spec("lmdeploy") is None:
        raise ValueError("--engine lmdeploy: lmdeploy is not installed; pip install -r requirements-gpu.txt")
    from internvl_chat.checkpoint.names import local_checkpoint

    options = replace(options, checkpoint=str(local_checkpoint(options.checkpoint)))
    if name == "transformers":
        from tools.reasoning_data_pipeline.engines.transformers_engine import TransformersEngine

        return TransformersEngine.open(options)
    if name == "server":
        from tools.reasoning_data_pipeline.engines.server_engine import ServerEngine

        return ServerEngine.open(options)
    if name == "vllm" and importlib.util.find_spec("vllm") is not None:
        from tools.reasoning_data_pipeline.engines.vllm_engine import VllmEngine

        return VllmEngine.open(options)
    if name != "lmdeploy":
        raise ValueError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")
    if importlib.util.find_spec("lmdeploy") is None:
        raise ValueError("--engine lmdeploy: lmdeploy is not installed; pip install -r requirements-gpu.txt")
    from tools.reasoning_data_pipeline.engines.lmdeploy_engine import LmdeployEngine

    return LmdeployEngine.open(options)


def choose_engine() -> str:
    """What "auto" stands for on this machine."""
    if importlib.util.find_spec("lmdeploy") is None:
        return "transformers"
    import torch

    return "lmdeploy" if torch.cuda.is_available() else "transformers"
