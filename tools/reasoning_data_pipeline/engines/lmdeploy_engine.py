"""The lmdeploy engine (0.18): TurboMind or PyTorch backend in this process, on `tp` GPUs.

Requests go to lmdeploy as token ids, made by the tokenization of our training: one `<IMG_CONTEXT>` per image, which
lmdeploy widens to the image's tokens, and the assistant's prefix at the end. So chat template, prefix and placement are
exact and no text of a row becomes a special token. lmdeploy has no n > 1: a prompt is preprocessed once, its first
sample runs ahead, and the others start when its prompt stands in the prefix cache, with a seed of their own each. What
lmdeploy makes of our wishes is compared with them at start, and said: it changes backend and caching without a word.

This is the only file that imports lmdeploy, and only in its functions: it can be imported where lmdeploy is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoTokenizer

from internvl_chat.data.images import ImageError
from internvl_chat.model import InternVLChatConfig, is_hf_layout, load_config, load_tokenizer
from internvl_chat.model.configuration_internlm2 import InternLM2Config
from internvl_chat.model.tokenization_internlm2 import InternLM2Tokenizer
from internvl_chat.records.rows import RecordError
from tools.reasoning_data_pipeline.engines.inputs import PromptEncoder, PromptReader, ReadPrompt, failure
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineError,
    EngineOptions,
    Failure,
    Request,
    Result,
    SamplingSettings,
)

if TYPE_CHECKING:
    from lmdeploy import GenerationConfig, Pipeline, PytorchEngineConfig, TurbomindEngineConfig

    from internvl_chat.model.upstream import PreprocessedRequest

# lmdeploy's codes for errors of one request; any other means that the engine is in trouble.
REQUEST_ERRORS = frozenset({"invalid_request", "context_length_exceeded", "unsupported_feature", "preprocess_failed"})
INTERNAL_ERROR = "internal_error"  # of one request too, as far as lmdeploy tells: tried once more, then counted
MOST_IN_A_ROW = 8  # requests that fail so, with none that succeeds between: the engine is in trouble

logger = logging.getLogger(__name__)


class LmdeployEngine:
    """Samples through an lmdeploy pipeline; see `engines.Engine`."""

    def __init__(self, pipe: Pipeline, encoder: PromptEncoder, options: EngineOptions) -> None:
        """Take a started pipeline and the encoder of its checkpoint."""
        self.pipe, self.encoder, self.options = pipe, encoder, options
        self.reader = PromptReader(encoder, load_config(options.checkpoint), options.session_len)
        self._failed_in_a_row = 0
        self.max_in_flight = 2 * pipe.backend_config.max_batch_size  # samples: one batch runs, one is being prepared
        self._readers = ThreadPoolExecutor(max(1, options.num_workers))

    @classmethod
    def open(cls, options: EngineOptions) -> LmdeployEngine:
        """Start lmdeploy on a checkpoint, without running code that comes with it.

        Raises:
            ValueError: the checkpoint is in the `-hf` layout.
        """
        from lmdeploy import VisionConfig, pipeline

        if is_hf_layout(options.checkpoint):
            raise ValueError(
                f"{options.checkpoint}: lmdeploy ignores the tile limit of checkpoints in the -hf layout; convert it "
                f"first, python tools/convert.py --checkpoint {options.checkpoint} --out DIR, or take --engine vllm"
            )
        register_families()
        encoder = PromptEncoder(load_tokenizer(options.checkpoint), load_config(options.checkpoint))
        vision = VisionConfig(max_batch_size=options.vit_batch_size)
        pipe = pipeline(
            options.checkpoint, backend_config=backend_config(options), vision_config=vision, log_level="ERROR"
        )
        for difference in differences(pipe, options):
            logger.warning("%s", difference)
        return cls(pipe, encoder, options)

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answer requests; see `engines.Engine.generate`."""
        finished: SimpleQueue[Result | Future] = SimpleQueue()  # results, and the future of a request that is through
        source = iter(requests)
        running: dict[Future, Request] = {}
        while True:
            while sum(len(request.seeds) for request in running.values()) < self.max_in_flight:
                request = next(source, None)
                if request is None:
                    break
                future = asyncio.run_coroutine_threadsafe(
                    self._answer(request, finished), self.pipe.internal_thread.loop
                )
                running[future] = request
                future.add_done_callback(finished.put)
            if not running:
                return
            result = finished.get()
            if isinstance(result, Future):
                _check(result, running.pop(result))
            else:
                yield result

    async def _answer(self, request: Request, finished: SimpleQueue[Any]) -> None:
        """Put the results of a request into the queue. Runs in the pipeline's event loop, as all that follows."""
        from internvl_chat.model.upstream import RequestError

        try:
            prepared = await self._prepare(request)
            cached = asyncio.Event()
            samples = [
                asyncio.ensure_future(self._sample(prepared, sample, seed, cached=cached, leads=number == 0))
                for number, (sample, seed) in enumerate(request.seeds.items())
            ]
            for sample in asyncio.as_completed(samples):
                index, tokens, finish = await sample
                self._failed_in_a_row = 0
                finished.put(Completion(request.key, index, self.encoder.decode(tokens), finish))
        except (ImageError, RecordError) as error:
            finished.put(failure(request, error))
        except RequestError as error:
            if not self._is_of_the_request(error.code.value):
                raise
            finished.put(Failure(request.key, f"lmdeploy: {error.message}"))

    def _is_of_the_request(self, code: str) -> bool:
        """Whether an error concerns its request alone, and others may go on."""
        self._failed_in_a_row += code == INTERNAL_ERROR
        return code in REQUEST_ERRORS or (code == INTERNAL_ERROR and self._failed_in_a_row < MOST_IN_A_ROW)

    async def _prepare(self, request: Request) -> PreprocessedRequest:
        """Read the images and let lmdeploy check and tile the request, once for all its samples."""
        loop, engine = asyncio.get_running_loop(), self.pipe.async_engine
        read: ReadPrompt = await loop.run_in_executor(self._readers, self.reader.read, request)
        ids = self.encoder.condensed_ids(request)
        prompt = {"messages": user_message(ids, read.images, request.max_tiles)} if read.images else {"input_ids": ids}
        config = generation_config(self.options.sampling, self.encoder.stop_ids)
        prepared = await engine.preprocess(
            **{"messages": None, **prompt}, session_id=engine.session_mgr.get(), gen_config=config
        )
        set_fingerprints(prepared.inputs.get("multimodal") or ())
        return prepared

    async def _sample(
        self, prepared: PreprocessedRequest, sample: int, seed: int, *, cached: asyncio.Event, leads: bool
    ) -> tuple[int, list[int], Any]:
        """`_sample_once`, and once more where lmdeploy met an error of its own."""
        from internvl_chat.model.upstream import RequestError

        try:
            return await self._sample_once(prepared, sample, seed, cached=cached, leads=leads)
        except RequestError as error:
            if error.code.value != INTERNAL_ERROR:
                raise
            logger.warning("lmdeploy: %s; tried once more", error.message)
        return await self._sample_once(prepared, sample, seed, cached=cached, leads=False)

    async def _sample_once(
        self, prepared: PreprocessedRequest, sample: int, seed: int, *, cached: asyncio.Event, leads: bool
    ) -> tuple[int, list[int], Any]:
        """One sample: its index, tokens and finish reason. The leader sets `cached` with its first token."""
        engine, finish = self.pipe.async_engine, None
        tokens: list[int] = []
        try:
            if not leads:
                await cached.wait()
            session = prepared.session if leads else engine.session_mgr.get()
            config = replace(prepared.gen_config, random_seed=seed)
            mine = replace(prepared, session=session, inputs=dict(prepared.inputs), gen_config=config, consumed=False)
            async for output in engine.generate(mine, stream_response=leads):
                cached.set()
                tokens += output.token_ids or []
                finish = output.finish_reason or finish
        finally:
            cached.set()
        if finish not in ("stop", "length"):
            raise EngineError(f"sample {sample} ended with {finish!r}")
        return sample, tokens, finish

    def close(self) -> None:
        """Stop the pipeline and the reading threads."""
        self.pipe.close()
        self._readers.shutdown(cancel_futures=True)


def _check(future: Future, request: Request) -> None:
    """Raise EngineError where the engine failed on a request."""
    error = future.exception()
    if error is not None:
        raise EngineError(f"lmdeploy failed on {request.key}: {error}") from error


def register_families() -> None:
    """Make our configurations and tokenizers known to transformers, and so to lmdeploy: no remote code is needed."""
    AutoConfig.register(InternVLChatConfig.model_type, InternVLChatConfig, exist_ok=True)
    AutoConfig.register(InternLM2Config.model_type, InternLM2Config, exist_ok=True)
    AutoTokenizer.register(InternLM2Config, slow_tokenizer_class=InternLM2Tokenizer, exist_ok=True)


def differences(pipe: Pipeline, options: EngineOptions) -> list[str]:
    """What lmdeploy does otherwise than it was asked to."""
    engine, found = pipe.async_engine, []
    if options.lmdeploy_backend != "pytorch" and engine.backend != "turbomind":
        found.append(
            f"lmdeploy fell back to its {engine.backend} backend: TurboMind does not run this model, or its library "
            "does not load here; sampling is slower"
        )
    if not getattr(engine.backend_config, "enable_prefix_caching", True):
        found.append(
            f"lmdeploy's {engine.backend} backend caches no prefixes of this model: each sample of a prompt pays for "
            "the image and the prompt again; TurboMind and --engine vllm do not"
        )
    return found


def set_fingerprints(items: Iterable[dict[str, Any]]) -> None:
    """Name each image by its pixels, once for all samples: TurboMind would do so for each, in its event loop."""
    for item in items:
        pixels = item.get("pixel_values")
        if pixels is not None and item.get("fingerprint") is None:
            item["fingerprint"] = hashlib.sha256(pixels.contiguous().cpu().view(torch.uint8).numpy()).digest()


def backend_config(options: EngineOptions) -> TurbomindEngineConfig | PytorchEngineConfig:
    """How lmdeploy is started; a TurboMind configuration falls back to PyTorch where TurboMind knows no such model."""
    from lmdeploy import PytorchEngineConfig, TurbomindEngineConfig

    kind = PytorchEngineConfig if options.lmdeploy_backend == "pytorch" else TurbomindEngineConfig
    return kind(
        tp=options.tp,
        session_len=options.session_len,
        cache_max_entry_count=options.cache_max_entry_count,
        enable_prefix_caching=True,
    )


def generation_config(sampling: SamplingSettings, stop_ids: Iterable[int]) -> GenerationConfig:
    """The settings of one sample, but for its seed."""
    from lmdeploy import GenerationConfig

    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        stop_token_ids=sorted(stop_ids),
    )


def user_message(ids: list[int], images: Iterable[Any], max_tiles: int) -> list[dict[str, Any]]:
    """The whole prompt as token ids in one user turn, followed by its images, each with its tile limit.

    lmdeploy takes ids as they are, so the "turn" may hold system prompt, template and the assistant's prefix.
    """
    content: list[dict[str, Any]] = [{"type": "text", "text": ids}]
    content += [{"type": "image", "image": image, "max_dynamic_patch": max_tiles} for image in images]
    return [{"role": "user", "content": content}]
