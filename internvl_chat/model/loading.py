"""Load InternVL checkpoints, from a folder or by hub name, without running any code that comes with them.

Both layouts are read: the published one, and `-hf`, which `hf_layout.py` translates.

A checkpoint loads whole or not at all: a weight that is missing, left over or of another shape raises. Only safetensors
are read; pickled weights can run code.
"""

import json
import os
from copy import deepcopy
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from .configuration_internvl_chat import InternVLChatConfig
from .constants import IMG_CONTEXT_TOKEN
from .hf_layout import HF_MODEL_TYPE, InternVLChatModelHF, check_has_hf_form, config_from_hf, register_weight_names
from .modeling_internvl_chat import InternVLChatModel
from .tokenization_internlm2 import InternLM2Tokenizer

_NAMES_SHOWN = 5  # of a list of wrong keys
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
    if fields.get("model_type") == HF_MODEL_TYPE:
        return config_from_hf(fields, _image_settings(path), load_tokenizer(path).chat_template or "")
    return InternVLChatConfig.from_dict(fields)


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
) -> InternVLChatModel:
    """Load a checkpoint, in evaluation mode, with `img_context_token_id` set from its tokenizer.

    Args:
        path: folder, or hub name.
        dtype: of the weights; that of the files when None.
        attn_implementation: "sdpa", "eager", "flash_attention_2" or a registered one; "sdpa" when None.
        config: replaces the checkpoint's own, to change what does not touch shapes (drop path, ...).

    Raises:
        FileNotFoundError: the folder, config.json, tokenizer or weights are not there, or only as pickle.
        ValueError: another architecture, keys or shapes that do not match, or a broken file.
    """
    config = deepcopy(config) if config is not None else load_config(path)
    _check_folder(path, "*.safetensors")
    _check_shards(path)
    config.dtype = dtype  # with None the files decide, whatever config.json says of them
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
            attn_implementation=attn_implementation,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they come in the report, with the other wrong keys
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise ValueError(f"{path}: a weight file is broken or cut short ({error}); download it again") from error
    except OSError as error:
        raise FileNotFoundError(f"{path}: no safetensors weights to be read; {error}") from error
    _check_report(path, report)
    model.img_context_token_id = load_tokenizer(path).convert_tokens_to_ids(IMG_CONTEXT_TOKEN)
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
    _check_folder(path, "tokenizer_config.json")
    options = {} if model_max_length is None else {"model_max_length": model_max_length}
    try:
        tokenizer = _tokenizer_class(path).from_pretrained(os.fspath(path), trust_remote_code=False, **options)
    except OSError as error:
        raise FileNotFoundError(f"{path}: no tokenizer to be read; {error}") from error
    # In transformers 5 a tokenizer whose files were not found comes empty instead of failing.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ValueError(f"{path}: {type(tokenizer).__name__} gives no ids for 'a': its vocabulary file was not read")
    if tokenizer.convert_tokens_to_ids(IMG_CONTEXT_TOKEN) in (None, tokenizer.unk_token_id):
        raise ValueError(f"{path}: the tokenizer does not know {IMG_CONTEXT_TOKEN}: it is not that of an InternVL")
    return tokenizer


def _config_fields(path: str | os.PathLike) -> dict:
    """Return config.json, of either layout."""
    _check_folder(path, "config.json")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(os.fspath(path))
    except OSError as error:
        raise FileNotFoundError(f"{path}: no readable config.json; {error}") from error
    model_type = fields.get("model_type")
    if model_type not in (InternVLChatConfig.model_type, HF_MODEL_TYPE):
        raise ValueError(
            f"{path}: config.json has model_type {model_type!r}, expected {InternVLChatConfig.model_type!r} "
            f"or, in the layout of the '-hf' checkpoints, {HF_MODEL_TYPE!r}"
        )
    return fields


def _image_settings(path: str | os.PathLike) -> dict:
    """Return the fields of the image processor; empty when there is none."""
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(os.fspath(path))
    except OSError:
        return {}
    return settings


def _is_local(path: str | os.PathLike) -> bool:
    """Say whether `path` is meant as a folder: a hub name is two words with a slash between, and no folder here."""
    parts = os.fspath(path).split("/")
    return os.path.exists(path) or len(parts) != 2 or not all(part.strip(".") for part in parts)


def _check_folder(path: str | os.PathLike, pattern: str) -> None:
    """Raise FileNotFoundError unless a local `path` is a folder with a file like `pattern`; hub names pass."""
    if not _is_local(path):
        return
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such checkpoint folder; download one with 'hf download OpenGVLab/NAME --local-dir {folder}'"
        )
    if any(folder.glob(pattern)):
        return
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    if pattern == "*.safetensors" and pickled:
        raise FileNotFoundError(
            f"{folder}: only pickled weights ({pickled[0]}, ...), which can run code when read; "
            "convert them to safetensors where you trust them, or download the safetensors files"
        )
    raise FileNotFoundError(f"{folder}: no {pattern} in this folder; the download is incomplete or it is no checkpoint")


def _check_shards(path: str | os.PathLike) -> None:
    """Raise FileNotFoundError if the index of a local checkpoint names shards that are not there."""
    index = Path(path) / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(shards)} weight files are missing ({_shown(missing)}); download them again"
        )


def _check_report(path: str | os.PathLike, report: dict) -> None:
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
    found = [f"{len(names)} {kind}: {_shown(names)}" for kind, names in wrong.items() if names]
    if found:
        raise ValueError(
            f"{path}: the weights do not fit config.json ({'; '.join(found)}); "
            "take the config.json and the weights of one and the same checkpoint"
        )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _tokenizer_class(path: str | os.PathLike) -> type[PreTrainedTokenizerBase]:
    """Return the class that reads the tokenizer of a checkpoint."""
    name = get_tokenizer_config(os.fspath(path)).get("tokenizer_class") or ""
    if name.removesuffix("Fast") in _INTERNLM_TOKENIZERS:
        return InternLM2Tokenizer
    if not hasattr(transformers, name):
        raise ValueError(
            f"{path}: tokenizer_class {name!r} is not part of transformers and would need remote code, "
            f"which is not run; known are {', '.join(_INTERNLM_TOKENIZERS)} and those of transformers"
        )
    return getattr(transformers, name)


def remote_code_files() -> list[Path]:
    """Return the files of this folder that make a checkpoint load elsewhere with `trust_remote_code=True`."""
    stay = ("__init__.py", "hf_layout.py", Path(__file__).name)
    return sorted(file for file in Path(__file__).parent.glob("*.py") if file.name not in stay)
