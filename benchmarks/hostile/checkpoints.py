"""Checkpoints that are broken, that lie, or that want to run code."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .case import Case, Outcome, Place, all_of, by_entry, put_file

LOADERS: dict[str, Outcome] = {"train": "refused", "sample": "refused"}
USED: dict[str, Outcome] = {"train": "used", "sample": "used"}
WEIGHTS = "ckpt/model.safetensors"
NAMED = r"ckpt\S*: \S+"
CANARY = "open({path!r}, 'w').write('ran')"
Fields = dict[str, Any]


def cases() -> Iterator[Case]:
    """All cases of checkpoints."""
    yield from _broken_json()
    yield from _config()
    yield from _headers()
    yield from _weights()
    yield from _shards()
    yield from _tokenizers()
    yield from _code()


def _edited(name: str, edit: Callable[[Fields], object]) -> Place:
    """A JSON file of the checkpoint, edited in place."""
    return partial(_edit, name, edit)


def _edit(name: str, edit: Callable[[Fields], object], folder: Path) -> None:
    path = folder / "ckpt" / name
    fields = json.loads(path.read_text(encoding="utf-8"))
    edit(fields)
    path.unlink()
    path.write_text(json.dumps(fields), encoding="utf-8")


def _changed(name: str, *keys: str, **values: Any) -> Place:
    """Fields of a JSON file of the checkpoint, below `keys`, set to values."""

    def edit(fields: Fields) -> None:
        for key in keys:
            fields = fields[key]
        fields.update(values)

    return _edited(name, edit)


def _gone(name: str) -> Place:
    return lambda folder: (folder / "ckpt" / name).unlink()


def _broken_json() -> Iterator[Case]:
    named = {
        "empty": b"",
        "torn": b'{"model_type": "internvl_',
        "a list": b"[]",
        "null": b"null",
        "no UTF-8": b'{"a": "\xff"}',
        "nested 100,000 deep": b"[" * 100_000,
        "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "HTML": b"<!DOCTYPE html><html>404</html>",
    }
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for name, data in named.items():
            yield from by_entry(LOADERS, "checkpoint", f"{file} {name}", put_file(f"ckpt/{file}", data), NAMED)
    for file in ("config.json", "tokenizer_config.json", "model.safetensors"):
        says = "no .* in this folder|download"
        yield from by_entry(LOADERS, "checkpoint", f"no {file}", _gone(file), says)
    yield from by_entry(LOADERS, "checkpoint", "an empty folder", _emptied, "no config.json in this folder")


def _emptied(folder: Path) -> None:
    for path in (folder / "ckpt").iterdir():
        path.unlink()


def _config() -> Iterator[Case]:
    change = partial(_changed, "config.json")
    named: dict[str, Place] = {
        "of another model": change(model_type="llama"),
        "of the -hf layout": change(model_type="internvl"),
        "without a model type": change(model_type=None),
        "of a model type in numbers": change(model_type=5),
        "of an unknown language model": change("llm_config", model_type="evil"),
        "of a language model type in a list": change("llm_config", model_type=["qwen2"]),
        "with a language model in words": change(llm_config="qwen2"),
        "with a vision model in words": change(vision_config="vit"),
        "of an unknown pixel shuffle": change(ps_version="v9"),
        "of a ratio of 0": change(downsample_ratio=0),
        "of a ratio in words": change(downsample_ratio="half"),
        "of a NaN ratio": change(downsample_ratio=float("nan")),
        "of a hidden size of 0": change("llm_config", hidden_size=0),
        "of a negative hidden size": change("llm_config", hidden_size=-64),
        "of a hidden size in words": change("llm_config", hidden_size="64"),
        "of another hidden size": change("llm_config", hidden_size=32),
        "of a huge hidden size": change("llm_config", hidden_size=2**20, intermediate_size=2**20),
        "of no heads": change("llm_config", num_attention_heads=0),
        "of 7 heads": change("llm_config", num_attention_heads=7),
        "of a million layers": change("llm_config", num_hidden_layers=1_000_000),
        "of fewer layers": change("llm_config", num_hidden_layers=1),
        "of an unknown activation": change("llm_config", hidden_act="__import__"),
        "of another vocabulary": change("llm_config", vocab_size=10),
        "of a patch of 0 pixels": change("vision_config", patch_size=0),
        "of a negative patch": change("vision_config", patch_size=-14),
        "of a huge image": change("vision_config", image_size=10**9),
        "of a vision layer in words": change("vision_config", num_hidden_layers="3"),
        "of a rope that is none": change("llm_config", rope_scaling={"type": "evil", "factor": 2}),
    }
    for name, place in named.items():
        yield from by_entry(LOADERS, "checkpoint", f"config.json {name}", place, NAMED)
    sample: dict[str, Outcome] = {"sample": "refused"}
    for name, value in {"unknown": "evil", "null": None, "a number": 5, "a path": "../../x"}.items():
        says = "unknown chat template|must name the chat template"
        yield from by_entry(sample, "checkpoint", f"template {name}", change(template=value), says)


def _headers() -> Iterator[Case]:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()

    def lying(**fields: Any) -> bytes:
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}
        text = json.dumps({"a": entry}).encode()
        return struct.pack("<Q", len(text)) + text + b"\0" * 8

    named = {
        "empty": b"",
        "of 4 bytes": b"\0\0\0\0",
        "of text": b"This is not a weight file, but long enough for one.",
        "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "with a header of 2^63 bytes": struct.pack("<Q", 2**63) + header,
        "with a header of 2^40 bytes": struct.pack("<Q", 2**40) + header,
        "with a header of 99 MB": struct.pack("<Q", 99_000_000) + header,
        "with a header longer than the file": struct.pack("<Q", len(header) + 9) + header,
        "with a header that is no JSON": struct.pack("<Q", 8) + b"{{{{{{{{" + b"\0" * 8,
        "with a header in a list": struct.pack("<Q", 8) + b"[1,2,3] " + b"\0" * 8,
        "with a header nested deeply": struct.pack("<Q", 50_000) + b"[" * 50_000,
        "without data": struct.pack("<Q", len(header)) + header,
        "of an unknown number format": lying(dtype="EVIL"),
        "of a wrong shape": lying(shape=[3]),
        "of a huge shape": lying(shape=[2**62, 2**62]),
        "of a negative shape": lying(shape=[-2]),
        "of offsets past the end": lying(data_offsets=[0, 800]),
        "of offsets in reverse": lying(data_offsets=[8, 0]),
        "of offsets that are none": lying(data_offsets=["0", "8"]),
        "a pickle": pickle.dumps({"a": 1}) + b" " * 20,
    }
    for name, data in named.items():
        yield from by_entry(LOADERS, "checkpoint", f"weight file {name}", put_file(WEIGHTS, data), NAMED)
    for share in (0.001, 0.5, 0.999):
        yield from by_entry(LOADERS, "checkpoint", f"weight file cut at {share}", partial(_cut, share), NAMED)


def _cut(share: float, folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    put_file(WEIGHTS, data[: int(len(data) * share)])(folder)


def _reweighted(edit: Callable[[dict[str, np.ndarray]], object]) -> Place:
    """The weights, edited."""
    return partial(_reweigh, edit)


def _reweigh(edit: Callable[[dict[str, np.ndarray]], object], folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    (folder / WEIGHTS).unlink()
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


NORM = "language_model.model.norm.weight"


def _weights() -> Iterator[Case]:
    def filled(value: float) -> Callable[[dict[str, np.ndarray]], object]:
        return lambda weights: weights.update({NORM: np.full_like(weights[NORM], value)})

    fits = "the weights do not fit config.json"
    named: dict[str, tuple[Place, str]] = {
        "missing": (_reweighted(lambda weights: weights.pop(NORM)), fits),
        "left over": (_reweighted(lambda weights: weights.update(evil=np.zeros(2, np.float32))), fits),
        "of another shape": (_reweighted(lambda weights: weights.update({NORM: weights[NORM][:-1].copy()})), fits),
        "of one dimension more": (_reweighted(lambda weights: weights.update({NORM: weights[NORM][None]})), fits),
        "of no elements": (_reweighted(lambda weights: weights.update({NORM: weights[NORM][:0].copy()})), fits),
        "under another name": (_reweighted(lambda weights: weights.update({"x." + NORM: weights.pop(NORM)})), fits),
    }
    for name, (place, says) in named.items():
        yield from by_entry(LOADERS, "checkpoint", f"weight {name}", place, says)
    for name, value in {"NaN": np.nan, "infinite": np.inf, "-infinite": -np.inf}.items():
        says = r"(loss|logits|weight|probability).*(nan|inf|finite)"
        yield from by_entry(LOADERS, "checkpoint", f"weight {name}", _reweighted(filled(value)), f"(?i){says}")


def _shards() -> Iterator[Case]:
    index = "ckpt/model.safetensors.index.json"

    def indexed(shard: Any) -> Place:
        return put_file(index, json.dumps({"metadata": {}, "weight_map": {NORM: shard}}).encode())

    outside = all_of(
        lambda folder: os.link(folder / WEIGHTS, folder / "outside" / "model.safetensors"),
        lambda folder: (folder / WEIGHTS).rename(folder / "ckpt" / "other.safetensors"),
    )
    named: dict[str, Place] = {
        "torn": put_file(index, b'{"weight_map": {'),
        "a list": put_file(index, b"[]"),
        "without a map": put_file(index, b'{"metadata": {}}'),
        "with a map in a list": put_file(index, b'{"weight_map": ["model.safetensors"]}'),
        "with a map in words": put_file(index, b'{"weight_map": "model.safetensors"}'),
        "no UTF-8": put_file(index, b'{"weight_map": "\xff"}'),
        "nested 100,000 deep": put_file(index, b"[" * 100_000),
        "of a shard in numbers": indexed(5),
        "of a shard that is null": indexed(None),
        "of a missing shard": indexed("model-00002-of-00002.safetensors"),
        "of a shard outside": all_of(outside, indexed("../outside/model.safetensors")),
        "of a shard at an absolute path": all_of(
            outside, lambda folder: indexed(f"{folder}/outside/model.safetensors")(folder)
        ),
        "of a pickle": all_of(_evil_pickle("pytorch_model.bin"), indexed("pytorch_model.bin")),
        "of a device": indexed("/dev/zero"),
    }
    for name, place in named.items():
        with_index = all_of(place, _unless_renamed)
        yield from by_entry(LOADERS, "checkpoint", f"index {name}", with_index, NAMED)


def _unless_renamed(folder: Path) -> None:
    """The index counts only where there is no whole file beside it."""
    if (folder / WEIGHTS).exists():
        (folder / WEIGHTS).rename(folder / "ckpt" / "part.safetensors")


def _tokenizers() -> Iterator[Case]:
    change = partial(_changed, "tokenizer_config.json")

    def without_image_tokens(fields: Fields) -> None:
        fields["added_tokens"] = [token for token in fields["added_tokens"] if "IMG" not in token["content"]]

    def past_the_embedding(fields: Fields) -> None:
        fields["model"]["vocab"]["far"] = 10**6

    named: dict[str, Place] = {
        "of a class of nobody": change(tokenizer_class="EvilTokenizer"),
        "of a class in numbers": change(tokenizer_class=5),
        "of a class that is a module": change(tokenizer_class="os"),
        "of a class that is a function": change(tokenizer_class="pipeline"),
        "of a class with a path": change(tokenizer_class="../evil.Tokenizer"),
        "of an empty vocabulary": _edited("tokenizer.json", lambda fields: fields["model"].update(vocab={}, merges=[])),
        "of a model of nobody": _edited("tokenizer.json", lambda fields: fields["model"].update(type="Evil")),
        "of ids in words": _edited("tokenizer.json", lambda fields: fields["model"].update(vocab={"a": "x"})),
        "of ids past the embedding": _edited("tokenizer.json", past_the_embedding),
    }
    for name, place in named.items():
        yield from by_entry(LOADERS, "checkpoint", f"tokenizer {name}", place, NAMED)


def _evil_pickle(name: str) -> Place:
    return lambda folder: put_file(f"ckpt/{name}", pickle.dumps(_Evil(str(folder / "canary"))))(folder)


class _Evil:
    """What writes the canary when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, (CANARY.format(path=self.path),)


def _code() -> Iterator[Case]:
    """Code that comes with a checkpoint: it is never run; where the checkpoint is whole without it, it loads."""
    remote = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    here = all_of(*map(_evil_module, ("evil.py", "configuration_internvl_chat.py", "modeling_internvl_chat.py")))
    elsewhere = {name: f"evil/repository--{target}" for name, target in remote.items()}
    tokenizer = {"AutoTokenizer": ["evil.Tokenizer", None]}
    used: dict[str, Place] = {
        "remote code of its own": all_of(here, _changed("config.json", auto_map=remote)),
        "remote code of another repository": _changed("config.json", auto_map=elsewhere),
        "remote code of a tokenizer": all_of(here, _changed("tokenizer_config.json", auto_map=tokenizer)),
        "remote code of the language model": all_of(here, _changed("config.json", "llm_config", auto_map=remote)),
        "modules under names of the library": all_of(*map(_evil_module, ("json.py", "torch.py", "sitecustomize.py"))),
        "a pickle beside the weights": _evil_pickle("pytorch_model.bin"),
        "pickled training arguments": _evil_pickle("training_args.bin"),
        "a chat template that escapes": _changed("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__ }}"),
        "a preprocessor of nobody": put_file("ckpt/preprocessor_config.json", b'{"auto_map": {"x": "evil.X"}'),
        "quantized by nobody": _changed("config.json", quantization_config={"quant_method": "evil"}),
        "folders with odd names": lambda folder: (folder / "ckpt" / "-rf *").mkdir(),
    }
    for name, place in used.items():
        yield from by_entry(USED, "checkpoint", name, place, "")
    only_pickle = all_of(_evil_pickle("pytorch_model.bin"), _gone("model.safetensors"))
    yield from by_entry(LOADERS, "checkpoint", "only pickled weights", only_pickle, "only pickled weights.*run code")
    adapter = put_file("ckpt/adapter_config.json", b'{"base_model_name_or_path": "evil/repository", "peft_type": "X"}')
    yield from by_entry(LOADERS, "checkpoint", "an adapter of another repository", adapter, NAMED)


def _evil_module(name: str) -> Place:
    return lambda folder: put_file(f"ckpt/{name}", CANARY.format(path=str(folder / "canary")).encode())(folder)
