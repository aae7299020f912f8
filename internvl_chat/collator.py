"""The documented name of `internvl_chat.data.collator`."""

from internvl_chat.data.collator import (
    SIDES,
    dpo_concat_pad_data_collator,
)

__all__ = [
    "SIDES",
    "dpo_concat_pad_data_collator",
]
