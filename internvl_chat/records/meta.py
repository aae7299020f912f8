"""meta.json: the data sets of a training mixture, checked at the door.

    {"chartqa": {"root": "images/", "annotation": "chartqa.jsonl", "data_augment": false, "repeat_time": 0.5}}

Loads without torch: the data pipelines write the file that training reads.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from internvl_chat.model.file_kinds import wrong_kind
from internvl_chat.records.near_names import did_you_mean
from internvl_chat.records.rows import shown

MAX_TILES = 256  # of a row: more is a slip of the pen, and planning them takes long
MAX_REPEATS = 1_000_000
_MAX_DIGITS = 18  # of a `length` in quotes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of meta.json: a data set of a mixture.

    `repeat_time` r >= 0 over n rows gives round-half-up(r n) rows; `max_dynamic_patch` >= 1 overrides the flag, None
    leaves it; `length` is advisory (rows that the author of meta.json counted), None where it is no number; paths are
    as written, a root of null is "".
    """

    name: str
    root: str
    annotation: str
    data_augment: bool = False
    max_dynamic_patch: int | None = None
    repeat_time: float = 1
    length: int | None = None

    FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"root", "annotation", "data_augment", "max_dynamic_patch", "repeat_time", "repeat", "length"}
    )

    @classmethod
    def from_entry(cls, name: str, entry: object, meta_file: str) -> DatasetSpec:
        """Check one entry of `meta_file`; ValueError names file, data set, field and value. Logs unknown fields."""
        at = f"{meta_file}: data set {shown(name)}"
        if not isinstance(entry, dict):
            raise ValueError(f"{at}: must be an object with 'root' and 'annotation', not {shown(entry)}")
        if unknown := sorted(set(entry) - cls.FIELDS):
            logger.warning("%s: ignored fields %s; known ones: %s", at, shown(unknown), sorted(cls.FIELDS))
        length = _meta_length(entry)
        if length is None and entry.get("length") is not None:
            logger.warning("%s: 'length' is no number of rows: %s; the file counts", at, shown(entry["length"]))
        return cls(
            name=name,
            root=_meta_root(entry, at),
            annotation=_meta_text(entry, "annotation", at),
            data_augment=_meta_bool(entry, "data_augment", at),
            max_dynamic_patch=_meta_tiles(entry, at),
            repeat_time=_meta_repeat(entry, at),
            length=length,
        )

    def to_entry(self) -> dict[str, Any]:
        """The value to write under `name` in a meta.json; fields that are None are left out."""
        return {key: value for key, value in asdict(self).items() if key != "name" and value is not None}


def _meta_root(entry: Mapping[str, Any], at: str) -> str:
    if "root" in entry and entry["root"] in (None, ""):
        return ""  # of rows of text alone, as the authors' own mixtures have it
    return _meta_text(entry, "root", at)


def _meta_text(entry: Mapping[str, Any], key: str, at: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        text_only = ", or null where rows are of text alone" if key == "root" else ""
        raise ValueError(f"{at}: {key!r} must be a path{text_only}, not {shown(value)}")
    return value


def _meta_bool(entry: Mapping[str, Any], key: str, at: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{at}: {key!r} must be true or false, not {shown(value)}")
    return value


def _meta_tiles(entry: Mapping[str, Any], at: str) -> int | None:
    value = entry.get("max_dynamic_patch")
    if value is None or (type(value) is int and 1 <= value <= MAX_TILES):
        return value
    limits = f"a whole number >= 1 and <= {MAX_TILES}"
    raise ValueError(f"{at}: 'max_dynamic_patch' must be {limits}, not {shown(value)}")


def _meta_repeat(entry: Mapping[str, Any], at: str) -> float:
    """`repeat_time`, which the documentation calls `repeat` in places."""
    given = {key: entry[key] for key in ("repeat_time", "repeat") if entry.get(key) is not None}
    if len(set(map(repr, given.values()))) > 1:
        raise ValueError(f"{at}: 'repeat_time' and 'repeat' mean the same and differ: {given}; keep one")
    key, value = next(iter(given.items()), ("repeat_time", 1))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{at}: {key!r} must be a finite number >= 0, not {shown(value)}")
    if value > MAX_REPEATS:
        raise ValueError(f"{at}: {key!r} must be at most {MAX_REPEATS}, not {shown(value)}")
    return value


def _meta_length(entry: Mapping[str, Any]) -> int | None:
    """`length` as a number, None for whatever else stands there: nothing is read by it."""
    value = entry.get("length")
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MAX_DIGITS:
        value = int(value)
    return value if type(value) is int and 0 <= value <= 10**_MAX_DIGITS else None


def read_meta(path: str | Path) -> list[DatasetSpec]:
    """The data sets of a meta.json in file order; FileNotFoundError, or ValueError naming what is wrong where."""
    return [DatasetSpec.from_entry(name, entry, str(path)) for name, entry in read_entries(path).items()]


def read_entries(path: str | Path) -> dict[str, object]:
    """The entries of a meta.json by name, not checked yet; errors as `read_meta`."""
    if not Path(path).is_file():
        kind = "not a regular file" if Path(path).exists() else "no such file"
        near = did_you_mean(str(path)) or "; name the meta.json of a mixture, see data/README.md"
        raise FileNotFoundError(f"{path}: {kind}{near}")
    if wrong := wrong_kind(path, "JSON"):
        raise ValueError(f"{path}: not a usable meta.json: {wrong}")
    try:
        meta = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not a usable meta.json: nested too deeply") from error
    except ValueError as error:
        is_rows = str(error).startswith("Extra data")
        why = (
            "these are rows, or several values; a meta.json names files of rows, see data/README.md"
            if is_rows
            else error
        )
        raise ValueError(f"{path}: not a usable meta.json: {why}") from error
    if meta == {}:
        raise ValueError(
            f"{path}: must be an object of data sets by name, and has none; of a pipeline that found no pair, "
            "summary.json beside it says why"
        )
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: must be an object of data sets by name, not {shown(meta)}")
    return meta


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name given twice would silently lose its first data set."""
    if doubled := sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1):
        raise ValueError(f"names given twice: {shown(doubled)}")
    return dict(pairs)
