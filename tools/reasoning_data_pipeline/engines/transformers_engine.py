"""The embedded engine: our own model code on a CPU or one GPU.

Of a prompt, vision tower and language model compute image and question once, and its samples share the keys and values.
Prompts of similar length are computed together; rows that finish make room for waiting ones. The same seed gives the
same sample in any company, up to the rounding of float arithmetic in batches of other shapes. Weights keep the number
format of the checkpoint: products in bfloat16 are several times as fast as in float32 where a CPU has them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from internvl_chat.data.images import ImageError
from internvl_chat.model import InternVLChatModel, load_model, load_tokenizer
from internvl_chat.model.modeling_internvl import normalize_tiles
from internvl_chat.records.rows import RecordError
from tools.reasoning_data_pipeline.engines.decoding import DecodingBatch, Row, prefill
from tools.reasoning_data_pipeline.engines.inputs import PromptEncoder, PromptReader, failure, map_ahead
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineError,
    EngineOptions,
    Failure,
    Request,
    Result,
)
from tools.reasoning_data_pipeline.engines.shared_prompt import PromptGroup
from tools.reasoning_data_pipeline.engines.throughput import Throughput

logger = logging.getLogger(__name__)

REFILL_SHARE = 4  # rows join when a quarter of the places is free: prompts are computed several at a time
WINDOW = 4  # batches of prompts among which those of similar length are put together


@dataclass(frozen=True)
class TiledPrompt:
    """A request ready for the model: ids (S,) of prompt and prefix, tiles (T, 3, H, W) uint8 or None."""

    request: Request
    ids: list[int]
    tiles: torch.Tensor | None


class TransformersEngine:
    """Samples from an `InternVLChatModel`; see `engines.Engine`."""

    def __init__(self, model: InternVLChatModel, encoder: PromptEncoder, options: EngineOptions) -> None:
        """Take a model on its device, in evaluation mode, and the encoder of its checkpoint."""
        self.model, self.encoder, self.options = model, encoder, options
        self.reader = PromptReader(encoder, model.config, options.session_len)
        eos = model.generation_config.eos_token_id
        self.stop_ids = encoder.stop_ids | frozenset([eos] if isinstance(eos, int) else eos or [])
        self._pool = ThreadPoolExecutor(max(1, options.num_workers))

    @classmethod
    def open(cls, options: EngineOptions) -> TransformersEngine:
        """Load the checkpoint: bfloat16 on a GPU where it has one, else the type of the files on the CPU.

        Raises:
            ValueError: several GPUs are asked for.
        """
        on_gpu = torch.cuda.is_available()
        if on_gpu and options.tp > 1:
            raise ValueError(
                f"--tp {options.tp}: the transformers engine uses one GPU; install lmdeploy, or use --tp 1"
            )
        model = load_model(options.checkpoint, dtype=torch.bfloat16 if on_gpu else None, attn_implementation="sdpa")
        encoder = PromptEncoder(load_tokenizer(options.checkpoint), model.config)
        return cls(model.to("cuda" if on_gpu else "cpu"), encoder, options)

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answer requests; see `engines.Engine.generate`. Logs at the end how fast it was, and what bounds it."""
        groups = self._groups(requests)
        batch = DecodingBatch(
            self.model.language_model, self.options.sampling, self.stop_ids, logprobs=self.options.logprobs
        )
        throughput = Throughput(self.options.max_rows)
        yield from self._fill(batch, groups, throughput)
        while batch.rows:
            throughput.count(len(batch.rows))
            with _naming(row.key for row in batch.rows), throughput.spent("decoding"):
                finished = batch.step()
            yield from map(self._completion, finished)
            room = self.options.max_rows - len(batch.rows)
            if room * REFILL_SHARE >= self.options.max_rows:
                yield from self._fill(batch, groups, throughput)
        logger.info("transformers engine, %s on %s: %s", self.model.dtype, self.model.device, throughput.report())

    def _completion(self, row: Row) -> Completion:
        finish: Literal["stop", "length"] = "length" if row.end is None else "stop"
        logprobs = tuple(row.logprobs) if self.options.logprobs else None
        return Completion(row.key, row.sample, self.encoder.decode(row.tokens), finish, row.drawn, logprobs)

    def _fill(
        self, batch: DecodingBatch, groups: Iterator[Failure | list[TiledPrompt]], throughput: Throughput
    ) -> Iterator[Failure]:
        """Let waiting rows join until the batch is full or nothing waits."""
        while len(batch.rows) < self.options.max_rows:
            if batch.waiting:
                batch.admit(self.options.max_rows - len(batch.rows))
                continue
            with throughput.spent("waiting for images"):
                group = next(groups, None)
            if group is None:
                return
            if isinstance(group, Failure):
                yield group
                continue
            with throughput.spent("prompts"):
                batch.queue(self._prefill(group), [self._rows(prompt) for prompt in group])

    def _groups(self, requests: Iterable[Request]) -> Iterator[Failure | list[TiledPrompt]]:
        """Prompts of similar length that fill a batch; failures as they are met."""
        window, rows = [], 0
        for item in self._prompts(requests):
            if isinstance(item, Failure):
                yield item
                continue
            window.append(item)
            rows += len(item.request.seeds)
            if rows >= WINDOW * self.options.max_rows:
                yield from self._by_length(window)
                window, rows = [], 0
        yield from self._by_length(window)

    def _by_length(self, window: list[TiledPrompt]) -> Iterator[list[TiledPrompt]]:
        """Groups of up to `max_rows` rows, longest prompts first: memory that suffices for them suffices for all."""
        group: list[TiledPrompt] = []
        rows = 0
        for prompt in sorted(window, key=lambda prompt: -len(prompt.ids)):
            if group and rows + len(prompt.request.seeds) > self.options.max_rows:
                yield group
                group, rows = [], 0
            group.append(prompt)
            rows += len(prompt.request.seeds)
        if group:
            yield group

    def _prompts(self, requests: Iterable[Request]) -> Iterator[TiledPrompt | Failure]:
        """Requests as ids and tiles; images are read ahead in threads."""
        for request, read in map_ahead(self._read, requests, self._pool, self.options.num_workers):
            try:
                yield read()
            except (ImageError, RecordError) as error:
                yield failure(request, error)

    def _read(self, request: Request) -> TiledPrompt:
        prompt = self.reader.read(request)
        return TiledPrompt(request, prompt.ids, self.reader.cut(prompt))

    @torch.inference_mode()
    def _prefill(self, group: list[TiledPrompt]) -> PromptGroup:
        """Compute the prompts of a group, each once."""
        with _naming(prompt.request.key for prompt in group):
            embeds = [self._embed(prompt) for prompt in group]
            return prefill(self.model.language_model, embeds)

    def _rows(self, prompt: TiledPrompt) -> list[Row]:
        """The rows of a prompt, which end where the session does."""
        limit = min(self.options.sampling.max_new_tokens, self.options.session_len - len(prompt.ids))
        return [Row.of(prompt.request.key, *sample, limit) for sample in prompt.request.seeds.items()]

    def _embed(self, prompt: TiledPrompt) -> torch.Tensor:
        """(S, D), the image features in their places."""
        ids = torch.tensor([prompt.ids], device=self.model.device)
        features = None
        if prompt.tiles is not None:
            chunks = prompt.tiles.split(self.options.vit_batch_size)
            features = torch.cat([self._features(chunk.to(self.model.device)) for chunk in chunks])
        return self.model.insert_features(ids, features)[0]

    def _features(self, tiles: torch.Tensor) -> torch.Tensor:
        """uint8 tiles (T, 3, H, W) to image tokens (T, P, D)."""
        return self.model.extract_feature(normalize_tiles(tiles, self.model.normalize_type).to(self.model.dtype))

    def close(self) -> None:
        """End the reading threads."""
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _naming(keys: Iterable[str]) -> Iterator[None]:
    """Turn an error of the model (out of memory, say) into one that names the requests in flight."""
    names = list(dict.fromkeys(keys))
    try:
        yield
    except RuntimeError as error:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise EngineError(f"the engine failed on {shown}: {error}; where memory ran out, lower --batch-size") from error
