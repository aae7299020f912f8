"""The files that a published checkpoint has besides weights and config: tokenizer, chat template, image settings."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from internvl_chat.checkpoint.output import TOOL_CURE, writing
from internvl_chat.model import constants
from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.model.conversation import Template
from internvl_chat.model.tokenization_internlm2 import InternLM2Tokenizer
from tools.checkpoints.chat_template import chat_template

SHARD_SIZE = "5GB"  # as the published files are cut


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write weights, config and generation settings.

    Raises:
        OutputError: the disk is full or gone.
    """
    with writing(folder, "What it is made of is as it was", TOOL_CURE):
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, template: Template) -> None:
    """Write the tokenizer with the field names of the published checkpoints, which older transformers read too."""
    tokenizer.chat_template = None  # else transformers would write it to a file of its own
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["chat_template"] = chat_template(template, IMAGE_PLACEHOLDER)
    if isinstance(tokenizer, InternLM2Tokenizer):
        config["auto_map"] = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    write_json(path, config)


def preprocessor(image_size: int) -> dict[str, object]:
    """The fields of preprocessor_config.json that published checkpoints have."""
    return {
        "crop_size": image_size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": constants.IMAGENET_MEAN,
        "image_std": constants.IMAGENET_STD,
        "resample": 3,
        "size": image_size,
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write readable JSON that ends with a newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
