"""The output folder of a run: checked before anything is loaded, and one error when a write to it fails later."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# torch reports a full disk with a plain RuntimeError that names its writer. Other RuntimeErrors, such as that of a rank
# that lost its peer, have nothing to do with the disk.
TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "No space left", "Input/output error")

RUN_CURE = "free or mount the disk, lower --save_total_limit if space is short, and start the same command again"
TOOL_CURE = "free or mount the disk, delete what is there of it, and start the same command again"


class OutputError(OSError):
    """Something of a run could not be written; the message says where, why, what is left and what to do."""


def check_writable(folder: str | Path) -> None:
    """Make the folder and a file in it, and remove the file again.

    Raises:
        OutputError: the folder or the file cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        cure = "name a folder that this user may write to, on a file system that is not mounted read-only"
        raise OutputError(f"--output_dir {folder} cannot be written to ({error}): {cure}") from error


def check_apart(
    folder: str | Path, source: str | Path, flags: tuple[str, str] = ("--output_dir", "--model_name_or_path")
) -> None:
    """Refuse to write over the checkpoint that something is made of, which would be lost.

    Args:
        folder: of the output.
        source: folder of the checkpoint, or its name on a hub.
        flags: that name them, in this order.

    Raises:
        ValueError: both are one folder.
    """
    if Path(source).is_dir() and Path(folder).exists() and Path(folder).samefile(source):
        raise ValueError(
            f"{flags[0]} {folder} is the folder of {flags[1]}, which it would replace: name another folder"
        )


@contextmanager
def writing(path: str | Path, kept: str, cure: str = RUN_CURE) -> Iterator[None]:
    """Turn the errors of libraries that write below `path` into one error that names the cure.

    Args:
        path: file or folder that is written.
        kept: what is still there if this fails, for the message.
        cure: what to do then; that of a training unless told otherwise.

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
        where = f"{path}: not written, {error}; {_free_space(Path(path))}"
        raise OutputError(f"{where}. {kept}. {cure[0].upper()}{cure[1:]}") from error


def _free_space(path: Path) -> str:
    """Free space beside a path, or which folder is gone."""
    if not path.parent.is_dir():
        return f"{path.parent} is not there (any more)"
    return f"{shutil.disk_usage(path.parent).free / 1e9:.1f} GB free in {path.parent}"
