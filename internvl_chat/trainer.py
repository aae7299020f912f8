"""The documented name of `internvl_chat.run.trainer`."""

from internvl_chat.run.trainer import (
    MultimodalDPOTrainer,
    preference_logps,
)

__all__ = [
    "MultimodalDPOTrainer",
    "preference_logps",
]
