"""A file with one JSON object in it, of a checkpoint or left by a command: read, or refused with its cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .file_kinds import wrong_kind


def read_object(path: Path, cure: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        cure: what brings a whole one, such as the command that writes it; ends every message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {cure}")
    if wrong := wrong_kind(path, "JSON"):
        raise ValueError(f"{path}: {wrong}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({str(error)[:200]}); {cure}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a JSON object, not {str(fields)[:80]!r}; {cure}")
    return fields
