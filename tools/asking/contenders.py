"""What answers a question of the demo: a checkpoint by `model.chat`, or one behind an engine of the pipelines."""

from __future__ import annotations

import argparse
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase, TextStreamer

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.data.images import Tiling, tile_share
from internvl_chat.model import InternVLChatModel, load_config, load_model, load_tokenizer
from tools.asking.turns import AskedTurn
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import Engine, EngineOptions, Failure, Request, SamplingSettings
from tools.reasoning_data_pipeline.engines.server_arguments import server_options

History = list[tuple[str, str]]
Tell = Callable[[str], None]
"""Takes a further piece of an answer."""


class Teller(TextStreamer):
    """Hands on the pieces of an answer while it is made."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tell: Tell) -> None:
        """`tell` is called in the thread that generates; what it raises ends the generation."""
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tell = tell

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """As `TextStreamer` calls it."""
        if text:
            self.tell(text)


@dataclass(frozen=True)
class Contender:
    """A checkpoint that answers."""

    name: str
    model: InternVLChatModel
    tokenizer: PreTrainedTokenizerBase
    tiling: Tiling
    takes_history: ClassVar = True

    def answer(
        self, turns: Sequence[AskedTurn], history: History, settings: dict[str, Any], tell: Tell = lambda text: None
    ) -> str:
        """Answer the last of the turns.

        Args:
            turns: of the conversation, with the images of all.
            history: the earlier ones as (text, own answer).
            settings: keywords of `generate`.
            tell: takes the answer piece by piece.
        """
        images = [image for turn in turns for image in turn.images]
        parts = [self.tiling.cut(*each) for each in zip(images, self.plan(images), strict=True)]
        tiles = torch.from_numpy(np.concatenate(parts)) if parts else None
        settings = {**settings, "streamer": Teller(self.tokenizer, tell)}
        answer = self.model.chat(
            self.tokenizer,
            tiles,
            turns[-1].text,
            settings,
            history or None,
            num_patches_list=[len(one) for one in parts],
        )
        return str(answer)

    def plan(self, images: Sequence[Image.Image]) -> list[tuple[int, int]]:
        """The grid of each image; all share the limit of tiles, as in training."""
        return self.tiling.plan([image.size for image in images]) if images else []


@dataclass(frozen=True)
class EngineContender:
    """A checkpoint that answers through an engine of the pipelines, as it samples there."""

    name: str
    engine: Engine
    max_tiles: int
    takes_history: ClassVar = False

    def answer(
        self, turns: Sequence[AskedTurn], history: History, settings: dict[str, Any], tell: Tell = lambda text: None
    ) -> str:
        """Answer a question; the engine was opened with its settings, and tells the answer whole.

        Raises:
            ValueError: the engine cannot answer it, or there are earlier questions.
        """
        if history:
            raise ValueError("engines answer single questions; a conversation needs --engine chat")
        with tempfile.TemporaryDirectory() as folder:
            asked = turns[-1]
            paths = tuple(f"{folder}/{index}.png" for index in range(len(asked.images)))
            for image, path in zip(asked.images, paths, strict=True):
                image.save(path)
            tiles = tile_share(self.max_tiles, len(paths))
            request = Request("the question", asked.text, {0: secrets.randbits(62)}, paths, tiles)
            [result] = self.engine.generate([request])
        if isinstance(result, Failure):
            raise ValueError(result.reason)
        tell(result.text.strip())
        return result.text.strip()


Answering = Contender | EngineContender


def load_contender(path: str, device: str) -> Contender:
    """Load a checkpoint of either layout, by folder or hub name; in bfloat16 on a GPU, in float32 on a CPU."""
    source = local_checkpoint(path)
    config = load_config(source)
    model = load_model(source, dtype=torch.float32 if device == "cpu" else torch.bfloat16).to(device)
    tiling = Tiling(
        image_size=config.force_image_size or config.vision_config.image_size,
        min_num=config.min_dynamic_patch,
        max_num=config.max_dynamic_patch,
        dynamic=config.dynamic_image_size,
        use_thumbnail=config.use_thumbnail,
        pad2square=config.pad2square,
    )
    return Contender(path, model, load_tokenizer(source), tiling)


def open_contender(path: str, args: argparse.Namespace) -> EngineContender:
    """A checkpoint behind the engine that the command line names."""
    sampling = SamplingSettings(args.temperature, max_new_tokens=args.max_new_tokens)
    engine = open_engine(args.engine, EngineOptions(path, sampling, server=server_options(args)))
    return EngineContender(path, engine, load_config(path).max_dynamic_patch)


def open_contenders(args: argparse.Namespace) -> list[Answering]:
    """All checkpoints of the command line.

    Raises:
        FileNotFoundError, ValueError: a checkpoint cannot be loaded, or the device is not to be had.
    """
    device = choose_device(args.device)
    if args.engine == "chat":
        return [load_contender(path, device) for path in args.checkpoints]
    return [open_contender(path, args) for path in args.checkpoints]


def choose_device(name: str) -> str:
    """The device that a name means: "auto" is the first GPU, else the CPU.

    Raises:
        ValueError: a GPU is asked for and none is seen.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no GPU is seen here; leave the flag out, or take cpu")
    return name
