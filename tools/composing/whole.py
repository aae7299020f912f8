"""The whole checkpoint from its parts: the model around their weights, and the files that stand beside it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from internvl_chat.checkpoint.export import remote_code_files
from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.model.conversation import CONTROL_TOKEN, Template
from internvl_chat.model.modeling_intern_vit import InternVisionModel
from internvl_chat.model.tokenization_internlm2 import InternLM2Tokenizer
from tools.checkpoints.conversion import write_published_tokenizer
from tools.checkpoints.files import preprocessor, save_model, save_tokenizer, write_json
from tools.checkpoints.fresh import IMAGE_TOKENS, draw_weights
from tools.composing.language import LanguageModel, add_tokens, choose_template, load_language_model
from tools.composing.vision import check_tile, drawn_tower, stored_tower


def compose(args: argparse.Namespace) -> None:
    """Write the checkpoint to `args.out`; `args` as of `tools.compose.parse_arguments`.

    Raises:
        FileExistsError: the folder holds a checkpoint already, or is a file.
        FileNotFoundError: a part is not there.
        ModuleNotFoundError: a GGUF file, and no `gguf` to read it.
        ValueError: a part does not fit an InternVL, or sizes do not go together.
    """
    if args.out.is_file() or (args.out / "config.json").exists():
        raise FileExistsError(f"--out {args.out} is a file or holds a checkpoint already; name another folder")
    tower, settings = vision_part(args)
    language = load_language_model(args.llm, None if args.dtype == "auto" else getattr(torch, args.dtype))
    template = choose_template(language, args.template)
    fresh = add_tokens(language, [*template_tokens(template), *IMAGE_TOKENS])
    settings |= {"template": template.name, "max_dynamic_patch": args.max_dynamic_patch}
    model = join(language, tower, settings, args.seed)
    save_model(model, args.out)
    write_companions(language, model, args.out, template)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.out}: {parameters / 1e6:.1f} M parameters, template {template.name}, {fresh} fresh tokens")


def vision_part(args: argparse.Namespace) -> tuple[InternVisionModel, dict[str, Any]]:
    """The tower that the flags name, and the fields of the whole configuration that follow from it.

    Raises:
        FileNotFoundError, ValueError: as of `compose`.
    """
    settings: dict[str, Any] = {"downsample_ratio": 0.5, "ps_version": "v2"}
    if args.vision is None:
        side = args.image_size or 448
        check_tile(side, args.patch_size, settings["downsample_ratio"])
        tower = drawn_tower(args.vision_size, side, args.patch_size, args.seed)
    else:
        tower, taken = stored_tower(args.vision)
        settings |= taken
        side = args.image_size or settings.get("force_image_size") or tower.config.image_size
        check_tile(side, tower.config.patch_size, settings["downsample_ratio"])
    return tower, settings | {"force_image_size": side}


def template_tokens(template: Template) -> list[str]:
    """The control tokens that a chat template writes, each once."""
    text = template.prompt([("user", ""), ("assistant", "")], "") + template.end_token
    return list(dict.fromkeys(CONTROL_TOKEN.findall(text)))


def join(language: LanguageModel, tower: InternVisionModel, settings: dict[str, Any], seed: int) -> InternVLChatModel:
    """The whole model around the weights of its parts, which are not copied, in the format of the language model."""
    tied = language.model.config.tie_word_embeddings
    config = InternVLChatConfig(
        vision_config=tower.config.to_dict(),
        llm_config=language.fields,
        architectures=["InternVLChatModel"],
        dynamic_image_size=True,
        use_thumbnail=True,
        tie_word_embeddings=tied,
        dtype=language.model.dtype,
        **settings,
    )
    with torch.device("meta"):
        model = InternVLChatModel(config)
    model.mlp1.to_empty(device="cpu")
    draw_weights(model.mlp1, seed)
    model.mlp1.to(language.model.dtype)
    model.vision_model = tower.to(language.model.dtype)
    model.language_model = language.model
    model.tie_weights()
    return model


def write_companions(language: LanguageModel, model: InternVLChatModel, out: Path, template: Template) -> None:
    """Write what stands beside the weights: tokenizer, chat template, settings, remote code."""
    tokenizer = language.tokenizer
    if isinstance(tokenizer, InternLM2Tokenizer):
        save_tokenizer(tokenizer, out, template)
    else:
        write_published_tokenizer(tokenizer, out, template, model.config.llm_config.vocab_size)
    stops = dict.fromkeys([tokenizer.convert_tokens_to_ids(template.stop_token), tokenizer.eos_token_id])
    write_json(out / "generation_config.json", {"eos_token_id": [stop for stop in stops if stop is not None]})
    write_json(out / "preprocessor_config.json", preprocessor(model.config.force_image_size))
    for path in remote_code_files():
        shutil.copyfile(path, out / path.name)
