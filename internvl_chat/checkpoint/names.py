"""The name of a checkpoint: a folder, or a name on the hub, which is downloaded. Training and every tool ask here.

A folder may be the copy of a published model; a card names that one.

Which of the two a name is, `model.checkpoint_files.is_hub_name` decides; loading by name asks it too.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from internvl_chat.model.checkpoint_files import is_hub_name, no_such_checkpoint

PUBLISHER = "OpenGVLab"
PUBLISHED = re.compile(r"InternVL\d[\w.\-]*")  # names of its models
LOCAL_FOLDERS = ("ckpt/", "work_dirs/")  # of this repository: no owners, also where they are not below this folder
PICKLED = ["*.bin", "*.pth", "*.pt"]  # never read


def local_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint: as given, or where the files of the hub were downloaded to.

    Raises:
        FileNotFoundError: neither a folder nor a name that the hub knows (or the hub cannot be reached).
    """
    path = Path(name)
    if path.is_dir():
        return path
    if not is_hub_name(name):
        raise no_such_checkpoint(name)
    try:
        return Path(snapshot_download(str(name), ignore_patterns=PICKLED))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise no_such_checkpoint(name, error) from error


def published_name(name: str) -> str | None:
    """The hub's name of a checkpoint, for others to find it by; None where it cannot be told.

    A downloaded copy of a published model is known by the name of its folder.
    """
    if is_hub_name(name) and not name.startswith(LOCAL_FOLDERS):
        return name
    folder = Path(name).name
    return f"{PUBLISHER}/{folder}" if PUBLISHED.fullmatch(folder) else None
