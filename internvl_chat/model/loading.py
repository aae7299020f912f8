"""Load InternVL checkpoints, from a folder or by hub name, without running any code that comes with them.

Both layouts are read: the published one, and `-hf`, which `hf_layout.py` translates.

A checkpoint loads whole or not at all: a weight that is missing, left over or of another shape raises. Only safetensors
are read; pickled weights can run code.
"""

import os
from copy import deepcopy

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase

from .checkpoint_files import (
    check_folder,
    check_sizes,
    check_tokenizer_files,
    check_weight_files,
    names_shown,
    no_such_checkpoint,
    read_json,
)
from .configuration_internvl_chat import InternVLChatConfig
from .constants import IMG_CONTEXT_TOKEN
from .conversation import control_tokens
from .hf_layout import HF_MODEL_TYPE, InternVLChatModelHF, check_has_hf_form, config_from_hf, register_weight_names
from .modeling_internvl import language_model_class
from .modeling_internvl_chat import InternVLChatModel
from .tokenization_internlm2 import InternLM2Tokenizer
from .upstream import QuantizationConfigMixin, get_tokenizer_config

# What transformers raises, from deep inside, on fields that are of a wrong kind or contradict each other.
_DOES_NOT_HOLD = (
    *(ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,
)
_FITTING = "take the tokenizer and the weights of one and the same checkpoint"
_INTERNLM_TOKENIZERS = ("InternLM2Tokenizer", "InternLM3Tokenizer")  # they encode alike


def load_config(path: str | os.PathLike) -> InternVLChatConfig:
    """Read the configuration of a checkpoint.

    Args:
        path: folder, or hub name such as "OpenGVLab/InternVL2_5-1B" or "OpenGVLab/InternVL3-1B-hf".

    Raises:
        FileNotFoundError: there is no such folder, config.json or hub name.
        ValueError: config.json is of another architecture, or does not hold together.
    """
    fields = _config_fields(path)
    is_hf = fields.get("model_type") == HF_MODEL_TYPE
    more = (_image_settings(path), load_tokenizer(path).chat_template or "") if is_hf else ()
    try:
        return config_from_hf(fields, *more) if is_hf else InternVLChatConfig.from_dict(fields)
    except _DOES_NOT_HOLD as error:
        raise ValueError(f"{path}: config.json does not hold together: {error}; download it again") from error


def is_hf_layout(path: str | os.PathLike) -> bool:
    """Say whether a checkpoint is in the `-hf` layout, that of the InternVL class in transformers.

    Raises:
        FileNotFoundError, ValueError: as of `load_config`.
    """
    return _config_fields(path).get("model_type") == HF_MODEL_TYPE


def load_model(
    path: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    config: InternVLChatConfig | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
) -> InternVLChatModel:
    """Load a checkpoint, in evaluation mode, with `img_context_token_id` set from its tokenizer.

    Args:
        path: folder, or hub name.
        dtype: of the weights; that of the files when None.
        attn_implementation: "sdpa", "eager", "flash_attention_2" or a registered one; "sdpa" when None. A language
            model that transformers has no "sdpa" of, GPT-OSS with its attention sinks, is "eager" then.
        config: replaces the checkpoint's own, to change what does not touch shapes (drop path, ...).
        quantization_config: rounds weights as they are read, by transformers' quantizers.

    Raises:
        FileNotFoundError: the folder, config.json, tokenizer or weights are not there, or only as pickle.
        ValueError: another architecture, keys or shapes that do not match, or a broken file.
    """
    config = deepcopy(config) if config is not None else load_config(path)
    check_folder(path, "*.safetensors")
    check_weight_files(path, config)
    config.dtype = dtype  # with None the files decide, whatever config.json says of them
    # Before ZeRO-3 watches the making of models: of classes that are defined meanwhile it undoes the decorators.
    language_model_class(config)
    layout = InternVLChatModel
    if is_hf_layout(path):
        layout = InternVLChatModelHF
        check_has_hf_form(config)  # now, not when a training is to be saved
        register_weight_names()
    try:
        model, report = layout.from_pretrained(
            os.fspath(path),
            config=config,
            dtype=dtype or "auto",
            attn_implementation=None if attn_implementation == "sdpa" else attn_implementation,  # None: where it can
            use_safetensors=True,
            quantization_config=quantization_config,
            ignore_mismatched_sizes=True,  # so that they come in the report, with the other wrong keys
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise ValueError(f"{path}: a weight file is broken or cut short ({error}); download it again") from error
    except OSError as error:
        raise FileNotFoundError(f"{path}: no safetensors weights to be read; {error}") from error
    except _DOES_NOT_HOLD as error:
        raise ValueError(f"{path}: no model can be built from config.json and weights: {error}") from error
    check_report(path, report)
    tokenizer = load_tokenizer(path)
    _check_ids(path, tokenizer, config.llm_config.vocab_size)
    model.img_context_token_id = tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN)
    return model


def load_tokenizer(path: str | os.PathLike, *, model_max_length: int | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint: those of InternLM by our class, others by transformers' own.

    Args:
        path: folder, or hub name.
        model_max_length: tokens; that of the checkpoint when None.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: it needs remote code, gives no ids, or knows no `<IMG_CONTEXT>`.
    """
    tokenizer = load_text_tokenizer(path, model_max_length=model_max_length)
    if tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN) in (None, tokenizer.unk_token_id):
        raise ValueError(f"{path}: the tokenizer does not know {IMG_CONTEXT_TOKEN}: it is not that of an InternVL")
    return tokenizer


def load_text_tokenizer(path: str | os.PathLike, *, model_max_length: int | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer that need not know images yet; arguments and errors as of `load_tokenizer`."""
    check_folder(path, "tokenizer_config.json")
    check_tokenizer_files(path)
    options = {} if model_max_length is None else {"model_max_length": model_max_length}
    try:
        tokenizer = _tokenizer_class(path).from_pretrained(os.fspath(path), trust_remote_code=False, **options)
    except OSError as error:
        raise FileNotFoundError(f"{path}: no tokenizer to be read; {error}") from error
    except _DOES_NOT_HOLD as error:
        raise ValueError(f"{path}: the tokenizer's files do not hold together: {error}; download them again") from error
    # In transformers 5 a tokenizer whose files were not found comes empty instead of failing.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ValueError(
            f"{path}: {type(tokenizer).__name__} gives no ids for 'a': the vocabulary of the tokenizer "
            "was not read; download its files again"
        )
    return tokenizer


def _config_fields(path: str | os.PathLike) -> dict:
    """Return config.json, of either layout."""
    check_folder(path, "config.json")
    read_json(path, "config.json")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(os.fspath(path))
    except OSError as error:  # of a hub name; a folder has been looked at
        raise no_such_checkpoint(path, error) from error
    model_type = fields.get("model_type")
    if model_type not in (InternVLChatConfig.model_type, HF_MODEL_TYPE):
        raise ValueError(
            f"{path}: config.json has model_type {model_type!r}, expected {InternVLChatConfig.model_type!r} "
            f"or, in the layout of the '-hf' checkpoints, {HF_MODEL_TYPE!r}"
        )
    check_sizes(path, fields)
    return fields


def _image_settings(path: str | os.PathLike) -> dict:
    """Return the fields of the image processor; empty when there is none."""
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(os.fspath(path))
    except OSError:
        return {}
    return settings


def check_report(path: str | os.PathLike, report: dict) -> None:
    """Raise ValueError if any weight did not find its place: the model would be partly random."""
    mismatched = [
        f"{key} {tuple(file)} in the file, {tuple(model)} here" for key, file, model in report["mismatched_keys"]
    ]
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(mismatched),
        "unreadable": sorted(map(str, report.get("error_msgs") or [])),
    }
    found = [f"{len(names)} {kind}: {names_shown(names)}" for kind, names in wrong.items() if names]
    if found:
        raise ValueError(
            f"{path}: the weights do not fit config.json ({'; '.join(found)}); "
            "take the config.json and the weights of one and the same checkpoint"
        )


def _check_ids(path: str | os.PathLike, tokenizer: PreTrainedTokenizerBase, embeddings: int) -> None:
    """Raise ValueError if text can have an id without an embedding; control tokens, which nobody writes, may."""
    control = control_tokens(tokenizer) - {IMG_CONTEXT_TOKEN}
    last, token = max((index, token) for token, index in tokenizer.get_vocab().items() if token not in control)
    if last >= embeddings:
        lacks = f"the tokenizer has an id of {last}, the model {embeddings} embeddings: {token!r} has none"
        raise ValueError(f"{path}: {lacks}; {_FITTING}, or call resize_token_embeddings after tokens were added")


def _tokenizer_class(path: str | os.PathLike) -> type[PreTrainedTokenizerBase]:
    """Return the class that reads the tokenizer of a checkpoint."""
    name = str(get_tokenizer_config(os.fspath(path)).get("tokenizer_class") or "")
    if name.removesuffix("Fast") in _INTERNLM_TOKENIZERS:
        return InternLM2Tokenizer
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)):
        raise ValueError(
            f"{path}: tokenizer_class {name!r} is not part of transformers and would need remote code, "
            f"which is not run; known are {', '.join(_INTERNLM_TOKENIZERS)} and those of transformers"
        )
    return found
