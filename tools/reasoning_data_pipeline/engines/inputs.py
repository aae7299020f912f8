"""Requests to what a model takes: token ids as in training, and tiles. Both engines that run a model use this."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from internvl_chat.data.images import Tiling, load_image
from internvl_chat.data.tokenization import RowTokenizer, TokenizedRow
from internvl_chat.model import InternVLChatConfig
from internvl_chat.records.rows import Source
from tools.reasoning_data_pipeline.engines.protocol import Request

In = TypeVar("In")
Out = TypeVar("Out")


class PromptEncoder:
    """Tokenizes requests in the chat template of a checkpoint; decodes what the model writes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: InternVLChatConfig) -> None:
        """Take the tokenizer and the configuration of a checkpoint.

        Raises:
            ValueError: the configuration names no chat template, or one that is not known.
        """
        if config.template is None:
            raise ValueError(f"config.json has template {config.template!r}: it must name the chat template to ask in")
        self._tokenizer = tokenizer
        self._rows = RowTokenizer(tokenizer, config.template, config.num_image_token)
        end_token = self._rows.template.stop_token
        self.stop_ids = frozenset({tokenizer.convert_tokens_to_ids(end_token), tokenizer.eos_token_id} - {None})

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

    def condensed_ids(self, request: Request) -> list[int]:
        """The whole prompt, every image as `<img>`, one `<IMG_CONTEXT>`, `</img>`; RecordError as `tokenize`."""
        row, prefix = self.tokenize(request)
        ids = list(row.pieces[0])
        for piece in row.pieces[1:]:
            ids += [row.image.start, row.image.context, row.image.end, *piece]
        return ids + prefix

    def decode(self, tokens: list[int]) -> str:
        """The text of generated tokens, those of grounding and the like with it."""
        return self._rows.encoder.decode(tokens)


def read_tiles(request: Request, config: InternVLChatConfig) -> list[torch.Tensor]:
    """The tiles (T, 3, S, S) uint8 of each image of a request; ImageError when one cannot be read."""
    tiling = Tiling(
        image_size=config.force_image_size or config.vision_config.image_size,
        min_num=config.min_dynamic_patch,
        use_thumbnail=config.use_thumbnail,
    )
    tiles = []
    for path in request.images:
        image = load_image(path)
        [grid] = tiling.plan([image.size], max_num=request.max_tiles)
        tiles.append(torch.from_numpy(tiling.cut(image, grid)))
    return tiles


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
