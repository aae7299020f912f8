"""From the published InternVL layout to the `-hf` layout of transformers' own class, and back; `tools/convert.py` asks.

Weights keep their values and number format, bit for bit. Only safetensors are read and no code of the checkpoint is
run. The model is in memory once, on the CPU.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor, PreTrainedTokenizerBase

from internvl_chat.checkpoint.export import remote_code_files, stored_dtypes
from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.model import (
    InternVLChatConfig,
    InternVLChatModel,
    is_hf_layout,
    load_config,
    load_model,
    load_tokenizer,
)
from internvl_chat.model.constants import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    IMG_CONTEXT_TOKEN,
    IMG_END_TOKEN,
    IMG_START_TOKEN,
)
from internvl_chat.model.conversation import Template, get_template
from internvl_chat.model.hf_layout import InternVLChatModelHF, config_to_hf, register_weight_names, run_settings
from tools.checkpoints.chat_template import VIDEO_TOKEN, chat_template
from tools.checkpoints.files import preprocessor, save_model, save_tokenizer, write_json

# Under these names transformers' processor finds the tokens of an image.
TOKEN_NAMES = {
    "start_image_token": IMG_START_TOKEN,
    "end_image_token": IMG_END_TOKEN,
    "context_image_token": IMG_CONTEXT_TOKEN,
    "video_token": VIDEO_TOKEN,
}
# What transformers notes in tokenizer_config.json of the processor, and of where it was loaded from.
UNPUBLISHED_FIELDS = (*TOKEN_NAMES, "model_specific_special_tokens", "processor_class", "is_local", "local_files_only")


def convert(checkpoint: Path, out: Path) -> str:
    """Write a checkpoint in its other layout; the words that say in which direction.

    Args:
        checkpoint: folder or hub name, of either layout.
        out: folder to write; must not hold a checkpoint yet.

    Raises:
        FileExistsError: `out` holds a checkpoint already, or is a file.
        FileNotFoundError, ValueError: as of the two directions.
    """
    source = local_checkpoint(checkpoint)
    if out.is_file():
        raise FileExistsError(f"--out {out} is a file; name a folder")
    if is_hf_layout(source):
        convert_to_published(source, out)
        return "-hf -> published"
    convert_to_hf(source, out)
    return "published -> -hf"


def convert_to_hf(source: Path, out: Path) -> None:
    """Write a published checkpoint in the `-hf` layout.

    Raises:
        FileExistsError: `out` holds a checkpoint already.
        FileNotFoundError, ValueError: the checkpoint cannot be read, or has what the `-hf` layout has no place for.
    """
    config, tokenizer = load_config(source), load_tokenizer(source)
    hf_config = config_to_hf(config, tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN))
    tokenizer = type(tokenizer).from_pretrained(source, model_specific_special_tokens=TOKEN_NAMES)
    write_weights(source, out, InternVLChatModelHF)
    hf_config.save_pretrained(out)
    build_processor(config, tokenizer).save_pretrained(out)


def convert_to_published(source: Path, out: Path) -> None:
    """Write an `-hf` checkpoint in the published layout.

    Raises:
        FileExistsError: `out` holds a checkpoint already.
        FileNotFoundError, ValueError: the checkpoint cannot be read, or no published InternVL has what it has.
    """
    config = load_config(source)
    write_weights(source, out, InternVLChatModel)
    write_json(out / "preprocessor_config.json", preprocessor(config.vision_config.image_size))
    template = get_template(config.template)
    write_published_tokenizer(load_tokenizer(source), out, template, config.llm_config.vocab_size)
    for path in remote_code_files():
        shutil.copyfile(path, out / path.name)


def write_weights(source: Path, out: Path, layout: type[InternVLChatModel]) -> None:
    """Write weights, config and generation settings by a class whose files are in the layout wanted.

    Raises:
        FileExistsError: `out` holds a checkpoint already.
        ValueError: the weights are not all in one number format, so loading would change some.
    """
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} holds a checkpoint already; name another folder or delete it")
    formats = sorted(str(dtype) for dtype in set(stored_dtypes(source).values()))
    if len(formats) > 1:
        raise ValueError(f"{source}: weights in several number formats ({', '.join(formats)}); save them in one first")
    model = load_model(source)
    register_weight_names()
    with torch.device("meta"):
        twin = layout(model.config)
    twin.load_state_dict(model.state_dict(), assign=True)  # the same tensors, not copies
    twin.tie_weights()
    twin.generation_config = model.generation_config
    save_model(twin, out)


def build_processor(config: InternVLChatConfig, tokenizer: PreTrainedTokenizerBase) -> InternVLProcessor:
    """Build transformers' processor that cuts and asks as the published model does.

    Args:
        config: published.
        tokenizer: with the `TOKEN_NAMES`.
    """
    settings = run_settings(config)[1]
    colours = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=True, **settings, **colours),
        video_processor=InternVLVideoProcessor(size=settings["size"], **colours),
        tokenizer=tokenizer,
        image_seq_length=config.num_image_token,
        chat_template=chat_template(get_template(config.template), IMG_CONTEXT_TOKEN),
    )


def write_published_tokenizer(
    tokenizer: PreTrainedTokenizerBase, out: Path, template: Template, vocab_size: int
) -> None:
    """Write a tokenizer as published ones are: without names for a processor, or tokens without an embedding.

    Besides tokenizer.json it gets the files of its vocabulary, which `use_fast=False` of older transformers reads.
    """
    save_tokenizer(tokenizer, out, template)
    tokenizer.backend_tokenizer.model.save(str(out))
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: value for name, value in settings.items() if name not in UNPUBLISHED_FIELDS})
    path = out / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < vocab_size]
    write_json(path, content)
