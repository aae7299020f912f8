"""The trainer's `--push_to_hub`: at the end of a run its checkpoint leaves as `tools/publish.py` would send it.

transformers' own way sends the output folder as it is, with every file that a run leaves. It is never begun here: the
flag is taken away before the Trainer sees it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainingArguments

from internvl_chat.checkpoint.names import published_name
from internvl_chat.publishing.card import CardContent, check_repo_id, model_card
from internvl_chat.publishing.contents import collect
from internvl_chat.publishing.upload import upload

PUBLISHED = "published"  # below the output folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PushAtEnd:
    """Where a finished run is sent: repository, whether only its owner sees it, a token, the base's name on the hub."""

    repo_id: str
    private: bool
    token: str | None
    base_model: str | None

    def push(self, run: Path) -> str:
        """Send a run's checkpoint with its card; returns the address.

        Raises:
            PublishError: something must not leave, or the hub does not take it; the folder stays.
        """
        folder = run / PUBLISHED
        collect(run, folder)
        model_card(run, CardContent(self.repo_id, self.base_model)).save(folder / "README.md")
        return upload(folder, self.repo_id, repo_type="model", private=self.private, token=self.token)


def take_push(args: TrainingArguments, model_name_or_path: str) -> PushAtEnd | None:
    """Take `--push_to_hub` from the arguments; None where it was not given.

    Raises:
        PublishError: --hub_model_id is no owner/name; said before the training.
    """
    if not args.push_to_hub:
        return None
    args.push_to_hub = False
    repo_id = check_repo_id(args.hub_model_id or Path(str(args.output_dir)).name)
    base = published_name(model_name_or_path)
    if base is None:
        logger.warning("the card will not name the base on the hub: %s is not known there", model_name_or_path)
    return PushAtEnd(repo_id, bool(args.hub_private_repo), args.hub_token, base)
