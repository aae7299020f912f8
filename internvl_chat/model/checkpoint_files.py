"""What the files of a checkpoint must be before a library reads them: then its errors are ours, with the cure.

Only headers and JSON are read here. Nothing outside the folder is opened, and sizes that the weights do not have are
refused before memory is taken for them.
"""

import os
import re
from itertools import product
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from .configuration_internvl_chat import InternVLChatConfig
from .file_kinds import wrong_kind
from .json_object import read_object

_NAMES_SHOWN = 5  # of a list of wrong keys
_SHARD = re.compile(r"[^/\\\0]+\.safetensors")
_LAYER = re.compile(r"\.layers?\.(\d+)\.")
_ADAPTER_KEY = re.compile(r"\bbase_model\.model\.|\.base_layer\.|\.lora_[AB]\.")
_PARTS = ("llm_config", "text_config", "vision_config")
_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "patch_size", "image_size")
_MOST_LAYERS = 10_000  # a configuration lists each of them, so a million would take a minute
_MOST_IDS = 2**31
_FAR = 4  # times more than is stored: what differs by less is told by name when the weights are loaded
_TOWERS = {"llm_config": ("language_model",), "vision_config": ("vision_model", "vision_tower")}
_TOKENIZER_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_TOKENIZER_FILES = {"tokenizer.model": "a sentencepiece model", "vocab.json": "JSON", "merges.txt": "text"}
_FIT = "take the config.json and the weights of one and the same checkpoint"


def is_hub_name(name: str | os.PathLike) -> bool:
    """Say whether `name` can only be meant for the hub: `owner/model`, and no folder `owner` is here.

    A missing folder such as `work_dirs/mpo` is a slip of the user's; a stranger's weights of that name are not wanted.
    """
    owner, slash, _ = os.fspath(name).partition("/")
    if not slash or os.path.exists(owner):
        return False
    try:
        validate_repo_id(os.fspath(name))
    except HFValidationError:
        return False
    return True


def no_such_checkpoint(name: str | os.PathLike, reason: object = None) -> FileNotFoundError:
    """The error where neither a folder nor the hub has a checkpoint, with the line that downloads one.

    Args:
        name: folder or hub name.
        reason: why the hub did not bring it; None for a folder.
    """
    last = Path(name).name
    published = last if last.startswith("InternVL") else "NAME"
    known = f"{name} --local-dir ckpt/{last}" if is_hub_name(name) else f"OpenGVLab/{published} --local-dir {name}"
    hub = "" if reason is None else f", and the hub did not bring it ({reason})"
    return FileNotFoundError(f"{name}: no such checkpoint folder{hub}; download one with 'hf download {known}'")


def check_folder(path: str | os.PathLike, pattern: str) -> None:
    """Raise FileNotFoundError unless a local `path` is a folder with a file like `pattern`; hub names pass."""
    if is_hub_name(path):
        return
    folder = Path(path)
    if not folder.is_dir():
        raise no_such_checkpoint(path)
    if any(folder.glob(pattern)):
        return
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    if pattern == "*.safetensors" and pickled:
        raise FileNotFoundError(
            f"{folder}: only pickled weights ({pickled[0]}, ...), which can run code when read; "
            "convert them to safetensors where you trust them, or download the safetensors files"
        )
    if (folder / "adapter").is_dir():
        merge = f"python tools/merge_lora.py --adapter {folder} --out FOLDER"
        raise FileNotFoundError(f"{folder}: an adapter, not a whole checkpoint; merge it first: {merge}")
    raise FileNotFoundError(f"{folder}: no {pattern} in this folder; the download is incomplete or it is no checkpoint")


def check_sizes(path: str | os.PathLike, fields: dict) -> None:
    """Raise ValueError where a config.json has sizes that are no whole numbers above 0, or more layers than any model.

    Sizes may be lists: the `-hf` layout has height and width of images and patches.
    """
    for part, name in product(_PARTS, _SIZES):
        inner = fields.get(part)
        size = inner.get(name, 1) if isinstance(inner, dict) else 1
        sides = size if isinstance(size, list) else [size]
        if not all(type(side) is int and side > 0 for side in sides):
            wrong = f"{name} in {part} must be a whole number above 0, not {str(size)[:80]!r}"
            raise ValueError(f"{path}: config.json: {wrong}; download it again")
        if name == "num_hidden_layers" and size > _MOST_LAYERS:
            raise ValueError(f"{path}: config.json: {size} layers in {part}, more than {_MOST_LAYERS}; {_FIT}")


def check_weight_files(path: str | os.PathLike, config: InternVLChatConfig) -> None:
    """Check what can be known of a local checkpoint's weights before memory is taken for them.

    Raises:
        FileNotFoundError: the index names files that are not there.
        ValueError: the index leads out of the folder, a file is broken, it is an adapter, or config.json asks for other
            sizes than the weights have.
    """
    if is_hub_name(path):
        return
    _check_shards(path)
    read_json(path, "generation_config.json")  # transformers would quietly go on without a broken one
    if (Path(path) / "adapter_config.json").exists():
        raise ValueError(f"{path}: adapter_config.json: this is an adapter, not a whole checkpoint; merge it first")
    sizes = _stored_sizes(Path(path))
    if unmerged := next(filter(_ADAPTER_KEY.search, sizes), None):
        raise ValueError(
            f"{path}: weights of LoRA adapters that were not merged ({unmerged}); merge them first: "
            f"python tools/merge_lora.py --adapter {path} --out {Path(path)}_merged"
        )
    for name, towers in _TOWERS.items():
        tower = {key: shape for key, shape in sizes.items() if any(word in key for word in towers)}
        _check_tower(path, name, getattr(config, name), tower)


def _check_tower(path: str | os.PathLike, name: str, config: object, sizes: dict[str, list[int]]) -> None:
    """Raise ValueError where a part of config.json is far larger than its weights, before memory is taken for it."""
    misfit = _more_layers(config, sizes) or _wider(config, sizes)
    if misfit:
        raise ValueError(
            f"{path}: the weights do not fit config.json: {misfit[0]} in {name}, {misfit[1]} stored; {_FIT}"
        )


def _more_layers(config: object, sizes: dict[str, list[int]]) -> tuple[str, str] | None:
    """The layers that are asked for and stored, where these are far fewer."""
    stored = len({int(found[1]) for key in sizes if (found := _LAYER.search(key))})
    asked = getattr(config, "num_hidden_layers", stored)
    return (f"{asked} layers", str(stored)) if asked > _FAR * (stored + 1) else None


def _wider(config: object, sizes: dict[str, list[int]]) -> tuple[str, str] | None:
    """The width that is asked for and the most that is stored, where this is far less."""
    widest = max((max(shape, default=1) for shape in sizes.values()), default=1)
    wide = max(getattr(config, field, 1) or 1 for field in ("hidden_size", "intermediate_size", "vocab_size"))
    return (f"a width of {wide}", f"at most {widest}") if wide > _FAR * widest else None


def _check_shards(path: str | os.PathLike) -> None:
    """Raise FileNotFoundError if the index of a local checkpoint names shards that are not there."""
    index = Path(path) / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = _shards(read_json(path, index.name).get("weight_map"), index)
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        lost = f"{len(missing)} of {len(shards)} weight files are missing ({names_shown(missing)})"
        raise FileNotFoundError(f"{path}: {lost}; download them again")


def _shards(weight_map: object, index: Path) -> list[str]:
    """The files that an index names; ValueError unless they are safetensors files of its own folder."""
    names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else {str(weight_map)[:200]}
    wrong = sorted(name for name in names if not _SHARD.fullmatch(name))
    if wrong:
        named = f"'weight_map' must name .safetensors files of this folder, not {wrong[0][:200]!r}"
        raise ValueError(f"{index}: {named}; download it again")
    return sorted(names)


def read_json(path: str | os.PathLike, name: str) -> dict:
    """The JSON object in a file of a local checkpoint, {} where it is not there; ValueError where it is none."""
    file = Path(path) / name
    return read_object(file, "download it again") if file.is_file() else {}


def _stored_sizes(folder: Path) -> dict[str, list[int]]:
    """Shape of each weight in the safetensors files of a folder; ValueError where a file is broken."""
    sizes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        _check_kind(file, "safetensors weights")
        try:
            with safe_open(file, framework="pt") as weights:
                sizes |= {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: a weight file is broken or cut short ({error}); download it again") from error
    return sizes


def check_tokenizer_files(path: str | os.PathLike) -> None:
    """Raise ValueError where a file is of another kind, or tokenizer.json lacks what the library takes for granted."""
    for name, wanted in _TOKENIZER_FILES.items():
        if (Path(path) / name).is_file():
            _check_kind(Path(path) / name, wanted)
    read_json(path, "tokenizer_config.json")
    fields = read_json(path, "tokenizer.json")
    if not fields:
        return
    model, added = fields.get("model"), fields.get("added_tokens", [])
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if model.get("type", "BPE") not in _TOKENIZER_MODELS if isinstance(model, dict) else True:
        raise ValueError(f"{path}: tokenizer.json has no model of a known type ({', '.join(_TOKENIZER_MODELS)})")
    if not isinstance(vocabulary, dict | list) or not vocabulary:
        raise ValueError(f"{path}: tokenizer.json has no vocabulary")
    if isinstance(vocabulary, dict) and not all(map(_is_id, vocabulary.values())):
        raise ValueError(f"{path}: tokenizer.json: the ids of its vocabulary must be whole numbers below 2**31")
    if not isinstance(added, list) or not all(isinstance(one, dict) and _is_id(one.get("id")) for one in added):
        raise ValueError(f"{path}: tokenizer.json: 'added_tokens' must be a list of objects with an 'id'")


def _check_kind(file: Path, wanted: str) -> None:
    """Raise ValueError where the first bytes of a file say that it is something else."""
    if wrong := wrong_kind(file, wanted):
        raise ValueError(f"{file}: {wrong}")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST_IDS


def names_shown(names: list[str]) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
