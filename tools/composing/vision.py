"""The vision tower of a composed checkpoint: that of another checkpoint, or one drawn at random."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.model import is_hf_layout, load_config
from internvl_chat.model.configuration_intern_vit import InternVisionConfig
from internvl_chat.model.json_object import read_object
from internvl_chat.model.modeling_intern_vit import InternVisionModel
from tools.checkpoints.fresh import VIT_FORMS, draw_weights

# Of an InternVL's config.json: what its tower was trained with, besides `vision_config`.
TAKEN_FIELDS = ("select_layer", "force_image_size", "downsample_ratio", "ps_version", "pad2square")
MLP_RATIO = 4  # width of the MLP over that of the tower, as in every InternViT


def stored_tower(name: Path) -> tuple[InternVisionModel, dict[str, Any]]:
    """Read the tower of an InternVL, or a bare InternViT, and nothing else of the file.

    Args:
        name: folder or hub name, in the published layout.

    Returns:
        The tower, in the number format of its file, and the fields of config.json that it was trained with.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is in the `-hf` layout, or its weights do not fit its config.json.
    """
    source = local_checkpoint(name)
    fields = read_object(source / "config.json", "name a folder with the config.json of an InternVL or InternViT")
    if fields.get("model_type") == InternVisionConfig.model_type:
        return _read(InternVisionConfig.from_dict(fields), source, ""), {}
    if is_hf_layout(source):
        command = f"python tools/convert.py --checkpoint {source} --out {source.name}-published"
        raise ValueError(f"--vision {source} is in the -hf layout; convert it first: {command}")
    config = load_config(source)
    tower = _read(config.vision_config, source, "vision_model.")
    return tower, {field: getattr(config, field) for field in TAKEN_FIELDS}


def _read(config: InternVisionConfig, source: Path, prefix: str) -> InternVisionModel:
    with torch.device("meta"):
        tower = InternVisionModel(config)
    try:
        tower.load_state_dict(dict(_weights(source, prefix)), assign=True)
    except RuntimeError as error:
        raise ValueError(f"--vision {source}: its weights do not fit its config.json: {error}") from error
    return tower


def _weights(source: Path, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.startswith(prefix):
                    yield key.removeprefix(prefix), file.get_tensor(key)


def drawn_tower(size: str, image_size: int, patch_size: int, seed: int) -> InternVisionModel:
    """Draw a tower in the form of InternViT-300M.

    Args:
        size: "layers:width:heads".
        image_size: side of a tile in pixels.
        patch_size: side of a patch in pixels.
        seed: of the weights.

    Raises:
        ValueError: the size is none, or heads do not divide the width.
    """
    numbers = size.split(":")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise ValueError(f"--vision_size {size} must be layers:width:heads, as 4:192:3")
    layers, width, heads = map(int, numbers)
    if width % heads:
        raise ValueError(f"--vision_size {size}: {heads} heads do not divide a width of {width}")
    config = InternVisionConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=MLP_RATIO * width,
        image_size=image_size,
        patch_size=patch_size,
        architectures=["InternVisionModel"],
        **VIT_FORMS["300M"],
    )
    tower = InternVisionModel(config)
    draw_weights(tower, seed)
    return tower


def check_tile(image_size: int, patch_size: int, downsample_ratio: float) -> None:
    """Refuse tiles whose patches cannot be shuffled into image tokens.

    Raises:
        ValueError: the side is no multiple of patch size over ratio, in pixels.
    """
    step = round(patch_size / downsample_ratio)
    if image_size <= 0 or image_size % step:
        raise ValueError(
            f"a tile of {image_size} pixels is not a multiple of {step} (patches of {patch_size}, "
            f"downsample_ratio {downsample_ratio}); set --image_size to {max(1, image_size // step) * step}"
        )
