"""The output folder of a run: writable before anything is loaded, and what is said when it stops being so."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# torch reports a full disk with a plain RuntimeError, by the names of its writer. Others, such as that of a rank which
# lost another one, have nothing to do with the disk.
TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "No space left", "Input/output error")


class OutputError(OSError):
    """Something of a run could not be written; says where, why, what is left and what to do."""


def check_writable(folder: str | Path) -> None:
    """Make the folder and a file in it, and take the file away again.

    Raises:
        OutputError: that does not go.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        cure = "name a folder that this user may write to, on a file system that is not mounted read-only"
        raise OutputError(f"--output_dir {folder} cannot be written to ({error}): {cure}") from error


@contextmanager
def writing(path: str | Path, kept: str) -> Iterator[None]:
    """Turn what libraries raise while they write below `path` into one error that names the cure.

    Args:
        path: file or folder that is written.
        kept: what is still there if this fails, for the message.

    Raises:
        OutputError: the block could not write.
    """
    try:
        yield
    except OutputError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_WRITES):
            raise
        where = f"{path}: not written, {error}; {_room(Path(path))}"
        cure = "free or mount the disk, lower --save_total_limit if space is short, and start the same command again"
        raise OutputError(f"{where}. {kept}. {cure[0].upper()}{cure[1:]}") from error


def _room(path: Path) -> str:
    """Free space where a path is, or which of its folders is gone."""
    if not path.parent.is_dir():
        return f"{path.parent} is not there (any more)"
    return f"{shutil.disk_usage(path.parent).free / 1e9:.1f} GB free in {path.parent}"
