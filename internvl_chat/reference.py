"""Log-probs of the frozen reference: what the preference losses measure the policy against.

`FrozenReference` holds a second model. It never trains: no gradients, evaluation mode (so no drop path), and under
DeepSpeed its own engine of the same ZeRO stage, so that it is partitioned like the policy.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from trl.models.utils import prepare_deepspeed

from internvl_chat.forward import PairLogps, answer_logps, pair_logps
from internvl_chat.model import InternVLChatModel


class FrozenReference:
    """A frozen model and the log-probs that it gives to a batch."""

    def __init__(self, model: InternVLChatModel, accelerator: Accelerator) -> None:
        """Freeze the model and place it as the policy is placed.

        Args:
            model: loaded like the policy; its weights are not copied.
            accelerator: the Trainer's, which knows the device and DeepSpeed's stage.
        """
        model.requires_grad_(False)
        model.eval()
        self.unwrapped = model
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.model: Any = prepare_deepspeed(model, accelerator)
        else:
            self.model = model.to(accelerator.device)

    @torch.no_grad()
    def logps(self, batch: dict[str, Any]) -> PairLogps:
        """Sequence log-probs of both answers of each pair of a packed batch, (B,) each, without a graph."""
        return pair_logps(answer_logps(self.model, batch), batch["packed"])
