"""Log-probs of the frozen reference: what the preference losses measure the policy against.

Two sources give the same numbers. `FrozenReference` holds a second model: no gradients, evaluation mode (so no drop
path), and under DeepSpeed an engine of its own, sharded like the policy. `CachedReference` reads what such a model
computed before: after one pass over the data the second model is freed, and the same answers never need it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from internvl_chat.model import InternVLChatModel
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import idle_batch
from internvl_chat.reference.cache import LogpsCache


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
            raise LookupError(
                f"{self.cache.folder}: {int(np.isnan(found).sum())} of {len(found)} reference log-probs of rows "
                f"{batch.get('row_ids')} are missing: an image, answer or setting changed after the cache was filled; "
                "start the run again to compute them, or use --reference model"
            )
        return torch.from_numpy(found).to(pack.labels.device)


def fill_cache(
    cache: LogpsCache, reference: FrozenReference, batches: Iterable[dict[str, Any]], accelerator: Accelerator
) -> int:
    """Compute what the cache lacks of these batches; resumable, as each batch is on disk before the next begins.

    Args:
        cache: of this reference.
        reference: the model.
        batches: packed, this rank's share; every rank has the same number of them.
        accelerator: knows the ranks and the device.

    Returns:
        The number of answers that this rank computed.

    Raises:
        FloatingPointError: the reference gives a log-prob that is not finite; it is not stored.
    """
    computed = 0
    for batch in batches:
        keys = batch["packed"].answer_keys if "packed" in batch else ()
        missing = np.isnan(cache.lookup(keys))
        # A sharded model runs on all ranks or on none.
        if not any_rank(bool(missing.any()), accelerator):
            continue
        runnable = batch if "packed" in batch else idle_batch(reference.unwrapped, accelerator.device)
        moved = {
            name: value.to(accelerator.device) if hasattr(value, "to") else value for name, value in runnable.items()
        }
        logps = reference.answer_logps(moved).tolist()
        fresh = {key: logp for key, logp, lacks in zip(keys, logps, missing, strict=False) if lacks}
        if fresh:
            cache.append(list(fresh), list(fresh.values()), batch.get("row_ids", ()))
        computed += len(fresh)
    cache.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        cache.merge()
    accelerator.wait_for_everyone()
    cache.reload()
    return computed


def any_rank(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set on any rank; a collective."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum"))
