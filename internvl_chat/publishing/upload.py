"""Send a finished folder to a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from internvl_chat.publishing.contents import PublishError

UNSENT = (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError)


def upload(
    folder: Path, repo_id: str, *, repo_type: Literal["model", "dataset"], private: bool, token: str | None = None
) -> str:
    """Make the repository unless it is there, and send the folder; returns its address.

    Raises:
        PublishError: the hub cannot be reached or does not take it; the folder stays, and the same command sends it.
    """
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type=repo_type, folder_path=folder, commit_message="Publish")
    except UNSENT as error:
        cure = f"log in with `hf auth login`, or send it later: hf upload {repo_id} {folder} --repo-type {repo_type}"
        raise PublishError(f"{repo_id}: not sent ({error}); {folder} is complete: {cure}") from error
    return str(address)
