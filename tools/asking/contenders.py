"""What answers a question of the demo: a checkpoint by `model.chat`, or one behind an engine of the pipelines."""

from __future__ import annotations

import argparse
import secrets
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.data.images import Tiling
from internvl_chat.model import InternVLChatModel, load_config, load_model, load_tokenizer
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import Engine, EngineOptions, Failure, Request, SamplingSettings
from tools.reasoning_data_pipeline.engines.server_arguments import server_options


@dataclass(frozen=True)
class Contender:
    """A checkpoint that answers."""

    name: str
    model: InternVLChatModel
    tokenizer: PreTrainedTokenizerBase
    tiling: Tiling

    def answer(self, image: Image.Image | None, question: str, settings: dict[str, Any]) -> str:
        """Answer a question, about an image if there is one; `settings` are keywords of `generate`."""
        tiles = None
        if image is not None:
            [grid] = self.tiling.plan([image.size])
            tiles = torch.from_numpy(self.tiling.cut(image, grid))
        return str(self.model.chat(self.tokenizer, tiles, question, settings))


@dataclass(frozen=True)
class EngineContender:
    """A checkpoint that answers through an engine of the pipelines, as it samples there."""

    name: str
    engine: Engine
    max_tiles: int

    def answer(self, image: Image.Image | None, question: str, settings: dict[str, Any]) -> str:
        """Answer a question, about an image if there is one; the engine was opened with its settings.

        Raises:
            ValueError: the engine cannot answer it.
        """
        with tempfile.TemporaryDirectory() as folder:
            images: tuple[str, ...] = ()
            if image is not None:
                images = (f"{folder}/upload.png",)
                image.save(images[0])
            request = Request("the question", question, {0: secrets.randbits(62)}, images, self.max_tiles)
            [result] = self.engine.generate([request])
        if isinstance(result, Failure):
            raise ValueError(result.reason)
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
