"""The documented name of `internvl_chat.run.trainer`."""

from internvl_chat.run.trainer import MultimodalDPOTrainer

__all__ = ["MultimodalDPOTrainer"]
