"""Shapes of the published checkpoints, for whoever plans a run before the weights are here.

`model_sizes.json` holds what decides shapes in the config.json of each published part: vision tower, language model
(with the vocabulary that InternVL gives it), and which parts make a model. Embedding and LM head are apart in all.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from internvl_chat.checkpoint.names import is_hub_name
from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_config

TABLE = Path(__file__).with_suffix(".json")
TWINS = ("-hf", "-MPO", "-Instruct", "-Pretrained")  # same shapes as the checkpoint without


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of the parts of a model."""

    vision: int
    projector: int
    language: int

    @property
    def total(self) -> int:
        """Of the whole model."""
        return self.vision + self.projector + self.language


def published_names() -> list[str]:
    """The checkpoints whose shapes are known without their files."""
    return list(json.loads(TABLE.read_text())["models"])


def without_twin(name: str) -> str:
    """The name of the checkpoint of the same shapes in the table."""
    for twin in TWINS:
        name = name.removesuffix(twin)
    return name


def published_config(name: str) -> InternVLChatConfig:
    """Configuration of a published checkpoint.

    Args:
        name: of the checkpoint, such as `InternVL2_5-8B` or `InternVL3-8B-Instruct`.

    Raises:
        ValueError: it is not in the table.
    """
    table, name = json.loads(TABLE.read_text()), without_twin(name)
    if name not in table["models"]:
        raise ValueError(f"the shapes of {name} are not known; known are {', '.join(table['models'])}")
    vision, language = table["models"][name]
    llm_config = {**table["language"][language], "tie_word_embeddings": False}
    return InternVLChatConfig(
        vision_config=table["vision"][vision],
        llm_config=llm_config,
        template="internvl2_5",
        ps_version="v2",
        force_image_size=448,
        max_dynamic_patch=12,
        tie_word_embeddings=False,
    )


def find_config(checkpoint: str) -> tuple[InternVLChatConfig, bool]:
    """Configuration of a checkpoint, and whether it can be had: a folder that is there, or a name that the hub knows.

    Of a name only config.json is asked for. Where the hub cannot be reached, a published one still has its shapes.

    Raises:
        ValueError: neither of them, nor a published name.
    """
    if (Path(checkpoint) / "config.json").is_file():
        return load_config(checkpoint), True
    if is_hub_name(checkpoint):
        with suppress(FileNotFoundError):
            return load_config(checkpoint), True
    return published_config(Path(checkpoint).name), False


def meta_model(config: InternVLChatConfig) -> InternVLChatModel:
    """The model without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return InternVLChatModel(config)


def count_parameters(model: InternVLChatModel) -> Parameters:
    """Count the parts of a model; any device."""
    parts = (model.vision_model, model.mlp1, model.language_model)
    return Parameters(*(sum(p.numel() for p in part.parameters()) for part in parts))
