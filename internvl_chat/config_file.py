"""Flags in a YAML or JSON file: `run.yaml --learning_rate 1e-6` is the file's flags, then those of the command line.

    model_name_or_path: ckpt/InternVL2_5-8B
    meta_path: MMPR-v1.1/meta.json
    loss_type: [sigmoid, bco_pair]        # a list is joined by commas
    learning_rate: 1e-6                   # read as it is written, then converted as the flag is

A file becomes words of a command line. So its values are converted by the type of their flag, as the parser of flags
converts them, and not by what YAML takes them for: `1e-6` is text to PyYAML, `no` is false, "False" is true.
(`trl.TrlParser` reads files too, but leaves booleans in quotes as text and takes the last of two equal keys.)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from internvl_chat.model.file_kinds import wrong_kind
from internvl_chat.run.entry import unknown_flags

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
_NULLS = ("", "~", "null", "Null", "NULL")
Value = str | list[str] | dict[str, Any] | None  # text as it is written; null is None


def find_config(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file of flags that a command line begins with, or names by `--config`, and the words that follow."""
    words = list(argv)
    if len(words) > 1 and words[0] == "--config":
        words = words[1:]
    elif words and words[0].startswith("--config="):
        words[0] = words[0].removeprefix("--config=")
    if words and not words[0].startswith("-") and Path(words[0]).suffix in CONFIG_SUFFIXES:
        return Path(words[0]), words[1:]
    return None, list(argv)


def with_config(argv: Sequence[str]) -> list[str]:
    """A command line with the flags of its file, if it has one, in place of the file's name."""
    path, words = find_config(argv)
    return words if path is None else [*config_words(read_config(path)), *words]


def parse_flags(types: Sequence[type], argv: Sequence[str]) -> tuple[Any, ...]:
    """The dataclasses of `types`, filled by a command line with or without a file of flags.

    Raises:
        ValueError: a flag or key is unknown or its value is not of its type, or is out of its range; names the file.
        FileNotFoundError: there is no such file.
    """
    path, words = find_config(argv)
    if path is None:
        return _filled(types, words)
    pairs = read_config(path)
    _check_config(path, pairs, types)
    try:
        return _filled(types, [*config_words(pairs), *words])
    except ValueError as error:
        raise ValueError(f"{path}{' and the flags after it' if words else ''}: {error}") from error


class _FlagParser(HfArgumentParser):
    """A parser whose mistakes are errors like all others, in one line."""

    def error(self, message: str) -> NoReturn:
        """ValueError instead of all flags and the end of the process."""
        raise ValueError(message)


def _filled(types: Sequence[type], words: list[str]) -> tuple[Any, ...]:
    parser = _FlagParser(types)
    _, left = parser.parse_known_args(words)
    if any(Path(word).suffix in CONFIG_SUFFIXES for word in left[:1]):
        raise ValueError(f"{left[0]}: a file of flags stands first, flags after it override it")
    if left:
        raise ValueError(unknown_flags(left, parser._option_string_actions))
    return parser.parse_args_into_dataclasses(words, look_for_args_file=False)


def read_config(path: Path) -> list[tuple[str, Value]]:
    """The keys of a file of flags and their values, in order; a key may have dashes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML or JSON, has no flags, a key twice, or a value of a form that no flag takes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of flags; examples/ has some to start from")
    if wrong := wrong_kind(path, "text"):
        raise ValueError(f"{path}: {wrong}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = _json_pairs(text) if path.suffix == ".json" else _yaml_pairs(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a file of flags: {' '.join(str(error).split())}") from error
    if not pairs:
        raise ValueError(f"{path}: no flags in it; write lines such as 'meta_path: data/meta.json', see examples/")
    named = [(key.removeprefix("--").replace("-", "_"), value) for key, value in pairs]
    if doubled := [key for key, count in Counter(key for key, _ in named).items() if count > 1]:
        raise ValueError(f"{path}: {doubled[0]} is given twice; keep one")
    return named


def config_words(pairs: Iterable[tuple[str, Value]]) -> list[str]:
    """Keys and values as words of a command line; a null is left out: the flag keeps its default."""
    words = []
    for key, value in pairs:
        if isinstance(value, dict):
            words.append(f"--{key}={json.dumps(value)}")
        elif value is not None:
            words.append(f"--{key}={','.join(value) if isinstance(value, list) else value}")
    return words


def _check_config(path: Path, pairs: Sequence[tuple[str, Value]], types: Sequence[type]) -> None:
    """Raise ValueError for a key that is no flag, a value that its flag cannot take, a null that would do nothing."""
    fields = {field.name: field for kind in types for field in dataclasses.fields(kind) if field.init}
    parser = HfArgumentParser(types, exit_on_error=False)
    for key, value in pairs:
        if key not in fields and isinstance(value, dict):
            raise ValueError(f"{path}: {key}: a file of flags is flat, lines 'flag: value' with none below another")
        if key not in fields:
            raise ValueError(f"{path}: {unknown_flags([f'--{key}'], [f'--{name}' for name in fields])}")
        if value is None and fields[key].default not in (None, "", dataclasses.MISSING):
            raise ValueError(f"{path}: {key} is null; leave it out for its default, {fields[key].default!r}")
        try:
            parser.parse_known_args(config_words([(key, value)]))
        except argparse.ArgumentError as error:
            raise ValueError(f"{path}: {key}: {error.message}") from error


class _Loader(yaml.SafeLoader):
    """Reads numbers inside of mappings as YAML 1.2 does: `1e-6` is one. A key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if doubled := [key for key, count in Counter(map(str, keys)).items() if count > 1]:
            raise ValueError(f"{doubled[0]} is given twice; keep one")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _yaml_pairs(text: str) -> list[tuple[str, Value]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(
                f"it must be lines 'flag: value', not a {type(node).__name__.removesuffix('Node').lower()}"
            )
        return [(str(key.value), _yaml_value(str(key.value), value, loader)) for key, value in node.value]
    finally:
        loader.dispose()


def _yaml_value(key: str, node: yaml.Node, loader: _Loader) -> Value:
    """The value of a flag: the text of a scalar as it stands, a list of them, or a mapping in YAML's types."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in _NULLS else node.value
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if not all(isinstance(entry, yaml.ScalarNode) for entry in node.value):
        raise ValueError(f"{key} must be a value or a list of values")
    return [entry.value for entry in node.value]


def _json_pairs(text: str) -> list[tuple[str, Value]]:
    if not text.strip():
        return []
    fields = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(fields, dict):
        raise ValueError(f"it must be an object of flags, not a {type(fields).__name__}")
    return [(key, _json_value(key, value)) for key, value in fields.items()]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two equal keys the last would win."""
    if doubled := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"{doubled[0]} is given twice; keep one")
    return dict(pairs)


def _json_value(key: str, value: Any) -> Value:
    """The value of a flag: numbers and booleans as text, a list of them, or a mapping as it is."""
    if value is None or isinstance(value, dict):
        return value
    if not isinstance(value, list):
        return _json_text(value)
    if any(isinstance(entry, list | dict) for entry in value):
        raise ValueError(f"{key} must be a value or a list of values")
    return [_json_text(entry) for entry in value]


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
