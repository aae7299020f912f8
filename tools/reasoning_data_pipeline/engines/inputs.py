"""Requests to what a model takes: token ids as in training, and tiles. All engines that run a model use this."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from transformers import GenerationConfig, PreTrainedTokenizerBase

from internvl_chat.data.images import Grid, Tiling, count_tiles, load_image
from internvl_chat.data.tokenization import RowTokenizer, TokenizedRow
from internvl_chat.model import InternVLChatConfig
from internvl_chat.records.rows import RecordError, Source
from tools.reasoning_data_pipeline.engines.protocol import Failure, Request

In = TypeVar("In")
Out = TypeVar("Out")

SEEDS = 2**63  # seeds are below


class PromptEncoder:
    """Tokenizes requests in the chat template of a checkpoint; decodes what the model writes."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: InternVLChatConfig, system_message: str | None = None
    ) -> None:
        """Take the tokenizer and the configuration of a checkpoint, another system message than the template's if any.

        Raises:
            ValueError: the configuration names no chat template, or one that is not known.
        """
        if config.template is None:
            raise ValueError(f"config.json has template {config.template!r}: it must name the chat template to ask in")
        self._tokenizer = tokenizer
        self._rows = RowTokenizer(tokenizer, config.template, config.num_image_token, system_message)
        self.stop_token = self._rows.template.stop_token
        self.stop_ids = frozenset({tokenizer.convert_tokens_to_ids(self.stop_token), tokenizer.eos_token_id} - {None})

    def check_length(self, request: Request, session_len: int) -> None:
        """Raise RecordError for a request whose texts cannot fit into so many tokens, before they are encoded."""
        self._rows.check_length([request.question, request.prefix or ""], Source(request.key, 1), session_len)

    def tokenize(self, request: Request) -> tuple[TokenizedRow, list[int]]:
        """The prompt, whose tile counts are open, and the ids that open its answer: the template's and the request's.

        Raises:
            RecordError: the placeholders do not match the images.
        """
        prefixes = [request.prefix] if request.prefix else []
        row = self._rows.tokenize(request.question, prefixes, len(request.images), Source(request.key, 1))
        return row, row.answers[0][:-1] if row.answers else self._rows.answer_start  # without the end token

    def condensed_ids(self, request: Request, image: Sequence[int] | None = None) -> list[int]:
        """The whole prompt with the ids `image` for each image: `<img>`, one `<IMG_CONTEXT>`, `</img>` by default.

        Raises:
            RecordError: as `tokenize`.
        """
        row, prefix = self.tokenize(request)
        if image is None:
            image = (row.image.start, row.image.context, row.image.end)
        ids = list(row.pieces[0])
        for piece in row.pieces[1:]:
            ids += [*image, *piece]
        return ids + prefix

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    @property
    def system_message(self) -> str:
        """What the template says in the system's turn."""
        return self._rows.template.system_message

    def decode(self, tokens: list[int]) -> str:
        """The text of generated tokens, those of grounding and the like with it."""
        return self._rows.encoder.decode(tokens)


class PromptReader:
    """Reads requests: images and token ids. What it cannot read, no engine answers, and all give the same reason."""

    def __init__(self, encoder: PromptEncoder, config: InternVLChatConfig, session_len: int) -> None:
        """Take the encoder and the configuration of a checkpoint, and the most tokens of prompt and answer."""
        self.encoder, self.session_len = encoder, session_len
        self.tiling = Tiling(
            image_size=config.force_image_size or config.vision_config.image_size,
            min_num=config.min_dynamic_patch,
            use_thumbnail=config.use_thumbnail,
        )

    def read(self, request: Request) -> ReadPrompt:
        """Open the images, plan their tiles, tokenize.

        Raises:
            ImageError: an image cannot be read.
            RecordError: the placeholders do not match the images, or the prompt leaves no room for an answer.
        """
        self.encoder.check_length(request, self.session_len)
        images = tuple(load_image(path) for path in request.images)
        grids = tuple(self.tiling.plan([image.size], max_num=request.max_tiles)[0] for image in images)
        row, prefix = self.encoder.tokenize(request)
        ids = row.prompt_ids([count_tiles(grid, self.tiling.use_thumbnail) for grid in grids]) + prefix
        if len(ids) >= self.session_len:
            reason = f"a prompt of {len(ids)} tokens leaves no room for an answer in --session-len"
            where = Source(request.key, 1)
            raise RecordError(*where, f"{reason} {self.session_len}; allow more, or fewer tiles", "too_long")
        return ReadPrompt(request, ids, images, grids)

    def cut(self, prompt: ReadPrompt) -> torch.Tensor | None:
        """The tiles (T, 3, S, S) uint8 of a prompt's images, None without images."""
        pairs = zip(prompt.images, prompt.grids, strict=True)
        tiles = [torch.from_numpy(self.tiling.cut(image, grid)) for image, grid in pairs]
        return torch.cat(tiles) if tiles else None


@dataclass(frozen=True)
class ReadPrompt:
    """A request that was read.

    Attributes:
        request: as it came.
        ids: of prompt and prefix, as in training.
        images: RGB.
        grids: of their tiles.
    """

    request: Request
    ids: list[int]
    images: tuple[Image.Image, ...]
    grids: tuple[Grid, ...]


def failure(request: Request, error: Exception) -> Failure:
    """The result of a request that could not be read (ImageError, RecordError)."""
    return Failure(request.key, getattr(error, "reason", str(error)))


@dataclass(frozen=True)
class Draw:
    """Samples that one request of an engine can ask for: sample `samples[i]` has the seed `seed + i`."""

    samples: tuple[int, ...]
    seed: int


def draws(request: Request, most: int) -> list[Draw]:
    """The samples of a request as runs of consecutive indices, at most `most` each; alone where it has no base seed."""
    if request.base_seed is None:
        return [Draw((sample,), seed) for sample, seed in request.seeds.items()]
    runs: list[list[int]] = []
    for sample in sorted(request.seeds):
        if runs and sample == runs[-1][-1] + 1 and len(runs[-1]) < most:
            runs[-1].append(sample)
        else:
            runs.append([sample])
    return [Draw(tuple(run), (request.base_seed + run[0]) % SEEDS) for run in runs]


def eos_ids(checkpoint: str) -> frozenset[int]:
    """The end tokens of the checkpoint's generation_config.json; none where it has no such file."""
    try:
        found = GenerationConfig.from_pretrained(checkpoint).eos_token_id
    except OSError:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found or [])


def map_ahead(
    function: Callable[[In], Out], items: Iterable[In], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[In, Callable[[], Out]]]:
    """Run `function` in threads, up to `ahead` items before they are asked for; yields (item, what returns or raises).

    `items` is read in the caller's thread.
    """
    running: deque = deque()
    for item in items:
        running.append((item, pool.submit(function, item).result))
        if len(running) > ahead:
            yield running.popleft()
    yield from running
