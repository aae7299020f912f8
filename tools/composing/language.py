"""The language model of a composed checkpoint: read from its folder or GGUF file, and taught the tokens of images."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.model import InternVLChatConfig
from internvl_chat.model.checkpoint_files import check_folder
from internvl_chat.model.conversation import TEMPLATES, Template, get_template
from internvl_chat.model.json_object import read_object
from internvl_chat.model.loading import check_report, load_text_tokenizer
from internvl_chat.model.modeling_internvl import language_model_class

# Those that training and both layouts are tested with: tests/test_families.py, tests/tools/test_convert.py.
FAMILIES = ("gpt_oss", "internlm2", "internlm3", "llama", "qwen2", "qwen3", "qwen3_moe")
TEMPLATES_OF_FAMILIES = {"gpt_oss": "internvl3_5_gpt_oss"}  # whose own template says more than turns
LOCAL_FIELDS = (
    "quantization_config",
    "_name_or_path",
    "_model_name_or_path",
)  # of the file that was read, not of the model that is written
SYSTEM, QUESTION, ANSWER = "Be brief.", "How many?", "Two."


@dataclass(frozen=True)
class LanguageModel:
    """A language model as it was found.

    Attributes:
        model: on the CPU.
        tokenizer: its own.
        source: folder or GGUF file.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Path

    @property
    def fields(self) -> dict[str, Any]:
        """Its configuration as it goes into `llm_config`."""
        fields = {name: value for name, value in self.model.config.to_dict().items() if name not in LOCAL_FIELDS}
        return {**fields, "architectures": [type(self.model).__name__]}


def load_language_model(name: Path, dtype: torch.dtype | None) -> LanguageModel:
    """Read a language model without running any code that comes with it.

    Args:
        name: folder, hub name, or GGUF file, whose weights are dequantized.
        dtype: number format of the weights; None for that of a folder's config.json, and float32 of a GGUF file.

    Raises:
        FileNotFoundError: there is no such model.
        ModuleNotFoundError: a GGUF file, and no `gguf` to read it.
        ValueError: a family that no InternVL here has, quantized weights, or files that do not hold together.
    """
    if name.suffix == ".gguf":
        return _load_gguf(name, dtype or torch.float32)
    source = local_checkpoint(name)
    check_folder(source, "config.json")
    fields = read_object(source / "config.json", "download it again")
    _check_family(source, fields.get("model_type"))
    if "quantization_config" in fields:
        method = fields["quantization_config"].get("quant_method")
        raise ValueError(f"--llm {source}: its weights are quantized ({method}); take the model that they were made of")
    check_folder(source, "*.safetensors")
    tokenizer = load_text_tokenizer(source)
    whole = InternVLChatConfig(llm_config=fields)
    model = _read(whole, source, dtype=dtype or "auto", use_safetensors=True)
    return LanguageModel(model, tokenizer, source)


def _load_gguf(file: Path, dtype: torch.dtype) -> LanguageModel:
    if not file.is_file():
        raise FileNotFoundError(f"--llm {file}: no such file")
    if find_spec("gguf") is None:
        raise ModuleNotFoundError(f"--llm {file}: GGUF files are read by a package that is not here: pip install gguf")
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    _check_family(file, config.model_type)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
    model = _read(InternVLChatConfig(llm_config=config), file.parent, dtype=dtype, **options)
    return LanguageModel(model, tokenizer, file)


def _read(config: InternVLChatConfig, folder: Path, **options: Any) -> PreTrainedModel:
    model, report = language_model_class(config).from_pretrained(
        folder, config=_bare(config.llm_config), output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    check_report(folder, report)
    return model


def _bare(config: PreTrainedConfig) -> PreTrainedConfig:
    return type(config).from_dict({k: v for k, v in config.to_dict().items() if k not in LOCAL_FIELDS})


def _check_family(source: Path, family: object) -> None:
    if family not in FAMILIES:
        raise ValueError(f"--llm {source} is of the family {family!r}, which is none of {', '.join(FAMILIES)}")


def choose_template(language: LanguageModel, name: str | None) -> Template:
    """The chat template that is asked for, or that of the family, or the one that writes turns as its own does.

    Raises:
        ValueError: an unknown name, or its own template writes turns as none of ours.
    """
    name = name or TEMPLATES_OF_FAMILIES.get(language.model.config.model_type)
    if name is not None:
        return get_template(name)
    rendered = _own_rendering(language.tokenizer)
    turns = [("user", QUESTION), ("assistant", ANSWER), ("user", QUESTION), ("assistant", None)]
    beginning = language.tokenizer.bos_token or ""  # where a template writes it: it is put in front of texts anyway
    for template in TEMPLATES.values():
        prompt = template.prompt(turns, SYSTEM)
        if rendered in (prompt, beginning + prompt):
            return template
    known = ", ".join(sorted(TEMPLATES))
    raise ValueError(f"--llm {language.source}: its chat template is none of ours; name one by --template: {known}")


def _own_rendering(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A conversation as the tokenizer's own chat template writes it; None where it has none, or cannot."""
    said = (("system", SYSTEM), ("user", QUESTION), ("assistant", ANSWER), ("user", QUESTION))
    messages = [{"role": role, "content": text} for role, text in said]
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError):
        return None


@torch.no_grad()
def add_tokens(language: LanguageModel, tokens: list[str]) -> int:
    """Give the tokenizer those tokens that it lacks, and the model a row for each, in place.

    A fresh row is the mean of those that were there: as likely as a token can be of which nothing is known. Rows of no
    token, with which vocabularies are padded, go, as in the published checkpoints. Tied weights stay tied.

    Returns:
        How many rows are fresh.
    """
    model, tokenizer = language.model, language.tokenizer
    vocabulary = tokenizer.get_vocab()
    lacking = [token for token in tokens if token not in vocabulary]
    tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)
    had = model.get_input_embeddings().num_embeddings
    known = [index for index in vocabulary.values() if index < had]
    vocabulary = tokenizer.get_vocab()
    fresh = sorted({vocabulary[token] for token in lacking} | {i for i in vocabulary.values() if i >= had})
    model.resize_token_embeddings(max(vocabulary.values()) + 1, mean_resizing=False)
    weights = {
        id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in weights.values():  # tied ones once
        weight[fresh] = weight[known].mean(0, dtype=torch.float32).to(weight.dtype)
    return len(fresh)
