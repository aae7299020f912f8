"""Packages that need a GPU, or an environment of their own, as far as an engine of ours uses them."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from internvl_chat.data.images import Tiling, count_tiles
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_config, load_tokenizer
from tools.reasoning_data_pipeline.engines.protocol import Request
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine


class FakeLLM:
    """`vllm.LLM`: widens image placeholders as vLLM does, and answers as the scripted engine by the seed."""

    instances: list[FakeLLM] = []

    def __init__(self, checkpoint: str, **options: Any) -> None:
        self.options, self.asked, self.waiting, self.names = options, [], [], count()
        self.tokenizer, self.config = load_tokenizer(checkpoint), load_config(checkpoint)
        self.more_tokens = 0
        self.llm_engine = self
        self.engine_core = types.SimpleNamespace(shutdown=lambda: self.instances.remove(self))
        self.instances.append(self)

    def enqueue(self, prompts, sampling_params, use_tqdm):
        """Take prompts, each with its settings; ValueError for one that is too long."""
        names = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            if "refuse me" in self.tokenizer.decode(prompt["prompt_token_ids"]):
                raise ValueError("the prompt is refused")
            name = str(next(self.names))
            names.append(f"{name}-f3a91c02")  # what comes back has the name without this
            self.asked.append((prompt, params))
            self.waiting.append((name, prompt, params))
        return names

    def step(self):
        """Finish one request."""
        if not self.waiting:
            return []
        name, prompt, params = self.waiting.pop()
        outputs = [self._answer(index, params.seed or 0, params) for index in range(params.n)]
        ids = self._widened(prompt) + [5] * self.more_tokens
        return [types.SimpleNamespace(request_id=name, finished=True, prompt_token_ids=ids, outputs=outputs)]

    def _answer(self, index, seed, params):
        text = ScriptedEngine().text(Request("fake", "Final answer: ..", {}), seed + index)
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        cut = len(tokens) >= params.max_tokens
        tokens = tokens[: params.max_tokens] if cut else [*tokens, self.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        steps = [{token: types.SimpleNamespace(logprob=-1 / (1 + token))} for token in tokens]
        finish = "length" if cut else "stop"
        logprobs = None if params.logprobs is None else steps
        return types.SimpleNamespace(index=index, token_ids=tokens, finish_reason=finish, logprobs=logprobs)

    def _widened(self, prompt):
        """The ids with each placeholder in the place of its image's tokens."""
        mark = self.tokenizer.encode("<image>", add_special_tokens=False)
        rows = RowTokenizer(self.tokenizer, self.config.template, self.config.num_image_token)
        tiling = Tiling(self.config.force_image_size or self.config.vision_config.image_size, use_thumbnail=True)
        images = iter(prompt.get("multi_modal_data", {}).get("image", ()))
        ids, place, left = [], 0, prompt["prompt_token_ids"]
        while place < len(left):
            if left[place : place + len(mark)] != mark:
                ids.append(left[place])
                place += 1
                continue
            limit = prompt["mm_processor_kwargs"]["max_dynamic_patch"]
            tiles = count_tiles(tiling.plan([next(images).size], max_num=limit)[0], True)
            ids += [rows.image.start, *[rows.image.context] * tiles * rows.image.per_tile, rows.image.end]
            place += len(mark)
        return ids


@dataclass(frozen=True)
class FakeSamplingParams:
    """`vllm.SamplingParams`."""

    n: int
    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    logprobs: int | None
    detokenize: bool


def vllm_module() -> types.ModuleType:
    """A module that stands for vllm."""
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, FakeSamplingParams
    return module


@dataclass
class Prepared:
    """What lmdeploy makes of a request."""

    inputs: dict[str, Any]
    gen_config: Any
    session: int
    consumed: bool = False


@dataclass
class GenerationConfig:
    """`lmdeploy.GenerationConfig`, as far as it is used."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    stop_token_ids: list[int]
    random_seed: int = 0


class FakePipeline:
    """`lmdeploy.pipeline`: an event loop in a thread, and answers of the scripted engine by the seed."""

    def __init__(self, checkpoint: str, **_: Any) -> None:
        self.tokenizer = load_tokenizer(checkpoint)
        config = types.SimpleNamespace(max_batch_size=4, enable_prefix_caching=True)
        self.backend_config, self.async_engine, self.backend = config, self, "turbomind"
        self.session_mgr = types.SimpleNamespace(get=count().__next__)
        self.internal_thread = types.SimpleNamespace(loop=asyncio.new_event_loop())
        threading.Thread(target=self.internal_thread.loop.run_forever, daemon=True).start()

    async def preprocess(self, messages, session_id, gen_config, input_ids=None):
        """Keep the prompt."""
        return Prepared({"prompt": messages or input_ids}, gen_config, session_id)

    async def generate(self, prepared, stream_response):
        """One answer."""
        text = ScriptedEngine().text(Request("fake", "Final answer: ..", {}), prepared.gen_config.random_seed)
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        yield types.SimpleNamespace(token_ids=tokens, finish_reason="stop")

    def close(self):
        """Stop the loop."""
        self.internal_thread.loop.call_soon_threadsafe(self.internal_thread.loop.stop)


@dataclass
class BackendConfig:
    """`lmdeploy.TurbomindEngineConfig` and `PytorchEngineConfig`."""

    tp: int = 1
    session_len: int = 0
    cache_max_entry_count: float = 0.0
    enable_prefix_caching: bool = False
    more: dict[str, Any] = field(default_factory=dict)


def lmdeploy_modules() -> dict[str, types.ModuleType]:
    """Modules that stand for lmdeploy, by name."""
    names = ("lmdeploy", "lmdeploy.serve", "lmdeploy.serve.core", "lmdeploy.serve.core.exceptions")
    modules = {name: types.ModuleType(name) for name in names}
    top = modules["lmdeploy"]
    top.pipeline, top.GenerationConfig, top.VisionConfig = FakePipeline, GenerationConfig, types.SimpleNamespace
    top.TurbomindEngineConfig = top.PytorchEngineConfig = BackendConfig
    modules[names[-1]].RequestError = type("RequestError", (Exception,), {})
    return modules


def install(monkeypatch: Any, name: str) -> None:
    """Let a package be found, as its stand-in."""
    for module, stands in ({"vllm": vllm_module()} if name == "vllm" else lmdeploy_modules()).items():
        monkeypatch.setitem(sys.modules, module, stands)
    monkeypatch.setattr("tools.reasoning_data_pipeline.engines.opening.is_installed", lambda package: package == name)
