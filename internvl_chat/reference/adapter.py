"""Log-probs of the reference where adapters are trained: the policy itself with its adapters off."""

from __future__ import annotations

from typing import Any

import torch

from internvl_chat.adapters.lora import adapters_off
from internvl_chat.model import InternVLChatModel
from internvl_chat.packed.logps import answer_logps


class AdapterReference:
    """The policy with its adapters off: exactly the model that training started from, without a second one."""

    def __init__(self, policy: InternVLChatModel) -> None:
        """Read from the policy, unwrapped, as it trains."""
        self.policy = policy

    @torch.no_grad()
    def answer_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        """Log-probs (A,) of the distinct answers of a packed batch, without a graph."""
        with adapters_off(self.policy):
            return answer_logps(self.policy, batch)
