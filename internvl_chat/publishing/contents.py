"""The folder that leaves: the files of a checkpoint that others need, and no other; nothing is copied twice.

What may leave is listed, so that caches, optimizer state, logs and whatever else a run leaves stay: weights in
safetensors, configuration, tokenizer, processor, remote code, licence. Weights are linked where the file system can.
"""

from __future__ import annotations

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from internvl_chat.model.json_object import read_object
from internvl_chat.publishing.secrets import holds_secret, scrub

WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "*.safetensors.index.json")
SETTINGS = (
    "config.json",
    "generation_config.json",
    "*processor_config.json",
    "adapter_config.json",
    "chat_template.json",
)
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.jinja",
)
CODE_AND_TERMS = ("*.py", "LICENSE*", "NOTICE*")
MAY_LEAVE = (*WEIGHTS, *SETTINGS, *TOKENIZER, *CODE_AND_TERMS)
REWRITTEN = (*SETTINGS, "tokenizer_config.json")  # JSON files of fields, among which paths of a machine may be
RUN_FOLDER = "mpo"  # below what leaves: settings, curves, evaluation


class PublishError(ValueError):
    """Something that must not leave, or is needed and not there; names the file and the cure."""


def collect(checkpoint: Path, folder: Path) -> list[str]:
    """Bring the files of a checkpoint that may leave into an empty folder; their names.

    Raises:
        PublishError: it is no checkpoint, or a file that cannot be changed holds a secret.
    """
    names = [path.name for path in sorted(checkpoint.iterdir()) if path.is_file() and may_leave(path.name)]
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights or not {"config.json", "adapter_config.json"} & set(names):
        raise PublishError(f"{checkpoint}: no weights in safetensors beside a config.json; name a saved checkpoint")
    for name in weights:
        check_weights(checkpoint / name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in names:
        place(checkpoint / name, folder / name)
    return names


def may_leave(name: str) -> bool:
    """Whether a file of a checkpoint is one that others need."""
    return any(fnmatch(name, pattern) for pattern in MAY_LEAVE)


def place(source: Path, target: Path) -> None:
    """Bring one file to its place: fields scrubbed, weights linked, texts looked through."""
    if any(fnmatch(source.name, pattern) for pattern in REWRITTEN):
        write_json(target, scrub(read_object(source, "mend it, or take it from the base checkpoint")))
    elif source.name.endswith(".safetensors"):
        try:
            os.link(source.resolve(), target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    elif holds_secret(source.read_text(encoding="utf-8", errors="replace")):
        raise PublishError(f"{source}: holds a token or key; take it out, and withdraw that token")
    else:
        shutil.copyfile(source, target)


def check_weights(path: Path) -> None:
    """Raise PublishError where a weight file is broken, or its metadata hold what must not leave."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PublishError(f"{path}: not a whole safetensors file ({error}); export the checkpoint again") from error
    if scrub(metadata) != metadata:
        raise PublishError(
            f"{path}: its metadata hold a secret or a path of this machine: {sorted(metadata)}; save it anew"
        )


def write_json(path: Path, value: Any) -> None:
    """A JSON file for people; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no such file; ValueError where it is none."""
    return read_object(path, "move it away, or make it again") if path.is_file() else {}
