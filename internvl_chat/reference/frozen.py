"""Log-probs of the frozen reference: what the preference losses measure the policy against.

Two sources give the same numbers. `FrozenReference` holds a second model: no gradients, evaluation mode (so no drop
path), and under DeepSpeed an engine of its own, sharded like the policy. `CachedReference` reads what such a model
computed before: after one pass over the data the second model is freed, and the same answers never need it again.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from internvl_chat.model import InternVLChatModel
from internvl_chat.packed.logps import answer_logps
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.rows import RowIndex


class Reference(Protocol):
    """Gives log-probs to batches."""

    def answer_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        """Log-probs (A,) of the distinct answers of a packed batch, without a graph."""


class FrozenReference:
    """A frozen model and the log-probs that it computes for a batch."""

    def __init__(self, model: InternVLChatModel, accelerator: Accelerator) -> None:
        """Freeze the model and put it on the device, or into an engine, as the policy is.

        Args:
            model: loaded like the policy; its weights are not copied.
            accelerator: the Trainer's, which knows the device and DeepSpeed's stage.
        """
        model.requires_grad_(False)
        model.eval()
        self.unwrapped = model
        self.autocast = accelerator.autocast
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            from internvl_chat.model.upstream import prepare_deepspeed  # of trl, which takes seconds to load

            self.model: Any = prepare_deepspeed(model, accelerator)
        else:
            self.model = model.to(accelerator.device)

    @torch.no_grad()
    def answer_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        """Log-probs (A,) of the distinct answers of a packed batch, in the number format of the policy."""
        with self.autocast():
            return answer_logps(self.model, batch)


class CachedReference:
    """Log-probs that a reference computed before, read from disk."""

    def __init__(self, cache: LogpsCache) -> None:
        """Read from `cache`, which `fill_cache` has filled."""
        self.cache = cache

    def answer_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        """Log-probs (A,) of the distinct answers of a packed batch.

        Raises:
            LookupError: an answer is not in the cache; names the rows.
        """
        pack = batch["packed"]
        found = self.cache.lookup(pack.answer_keys)
        if np.isnan(found).any():
            self.cache.forget_filled()
            RowIndex(self.cache.folder).forget()
            raise LookupError(
                f"{self.cache.folder}: {int(np.isnan(found).sum())} of {len(found)} reference log-probs of rows "
                f"{batch.get('row_ids')} are missing: an image, answer or setting changed after the cache was filled; "
                "start the run again to compute them, or use --reference model"
            )
        return torch.from_numpy(found).to(pack.labels.device)
