"""What answers prompts: one protocol, five engines.

    transformers  our own model code, CPU or one GPU: prompt and image are computed once for all samples of a prompt
    vllm          vLLM in this process: n samples of a prompt in one request, tensor parallel, prefix caching
    lmdeploy      lmdeploy in this process: TurboMind or PyTorch backend, tensor parallel, prefix caching
    server        any OpenAI-compatible servers (vLLM, lmdeploy, SGLang), on this node or others
    scripted      text made of the seed alone, for tests of everything around an engine

    engine = open_engine("auto", options)
    for result in engine.generate(requests):   # answers come as they finish, from many requests in flight
        ...

The engines are imported only when they are opened, so the scripted one needs no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

logger = logging.getLogger(__name__)

LMDEPLOY_BACKENDS = ("auto", "turbomind", "pytorch")


@dataclass(frozen=True)
class Request:
    """One prompt and the samples wanted of it.

    Attributes:
        key: names the request in its results and in errors; distinct among the requests of one `generate` call.
        question: the user turn, with one `<image>` per image.
        seeds: sample index -> seed, 0 <= seed < 2**63. The seed decides the sample, whatever else is in flight.
        images: paths of the images, in the order of the placeholders.
        max_tiles: tile limit of each image, without its thumbnail, >= 1.
        prefix: start of the assistant's turn, which the samples continue.
        base_seed: of the whole prompt; engines that draw several samples in one request give sample i the seed
            base_seed + i in place of its own, which is as good and holds for any part of the samples. None: they draw
            one by one.
    """

    key: str
    question: str
    seeds: Mapping[int, int]
    images: tuple[str, ...] = ()
    max_tiles: int = 12
    prefix: str = ""
    base_seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """One sample.

    Attributes:
        key: of the request.
        sample: its index.
        text: what follows the prompt and its prefix.
        finish: "length" where it was cut.
        tokens: ids as drawn, the one that ended it included; None from an engine that does not tell.
        logprobs: of these tokens in nats, by the model itself: before temperature, top-k and top-p. None unless
            `EngineOptions.logprobs` asks for them, and from an engine that has none.
    """

    key: str
    sample: int
    text: str
    finish: Literal["stop", "length"] = "stop"
    tokens: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Failure:
    """A request that this engine cannot answer (broken image, prompt too long): none of its other samples will come."""

    key: str
    reason: str


Result = Completion | Failure


class EngineError(RuntimeError):
    """The engine broke down; the text names the requests that it was working on."""


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn.

    Attributes:
        temperature: >= 0; 0 takes the most likely token.
        top_k: keep so many of the most likely tokens; 0 keeps all.
        top_p: of these, keep the fewest whose probabilities reach this share, in (0, 1].
        max_new_tokens: cut an answer here, >= 1.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    max_new_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"sampling needs temperature >= 0, top_k >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, not {self}"
            )


@dataclass(frozen=True)
class ServerOptions:
    """How servers are asked.

    Attributes:
        urls: of the servers, with or without /v1 at the end.
        model: name that they serve the checkpoint under; "" finds it by the checkpoint's.
        media_root: folder that the servers may read images from (vLLM: --allowed-local-media-path); images elsewhere
            are sent as data, and all of them where it is "".
        in_flight: samples that one server works on at once.
        deadline: seconds for one request.
        retries: further tries of a request that a server failed on, with the same seed.
        patience: seconds to wait, when no server is left, for one to come back.
    """

    urls: tuple[str, ...] = ()
    model: str = ""
    media_root: str = ""
    in_flight: int = 256
    deadline: float = 1800.0
    retries: int = 4
    patience: float = 60.0


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is opened with.

    Attributes:
        checkpoint: folder or hub name.
        sampling: how tokens are drawn.
        max_rows: answers that the embedded engine decodes at once, >= 1.
        tp: GPUs of one lmdeploy or vLLM engine.
        session_len: tokens of prompt and answer together, at most.
        vit_batch_size: tiles that go through the vision tower at once.
        num_workers: threads that read images ahead.
        cache_max_entry_count: share of the free GPU memory that lmdeploy takes for keys and values, or of all GPU
            memory that vLLM takes.
        lmdeploy_backend: "turbomind", "pytorch", or "auto", TurboMind where it knows the model.
        scripted_delay: seconds per answer of the scripted engine.
        logprobs: keep the log-probs of the tokens of answers.
        server: of the server engine.
    """

    checkpoint: str = ""
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    max_rows: int = 32
    tp: int = 1
    session_len: int = 16384
    vit_batch_size: int = 8
    num_workers: int = 8
    cache_max_entry_count: float = 0.8
    lmdeploy_backend: str = "auto"
    scripted_delay: float = 0.0
    logprobs: bool = False
    server: ServerOptions = field(default_factory=ServerOptions)


class Engine(Protocol):
    """Answers requests."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answer requests; results come as they finish, in any order.

        `requests` is read a little ahead, in the thread that reads the results.

        Raises:
            EngineError: the engine broke down.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
