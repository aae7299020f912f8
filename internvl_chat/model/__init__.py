"""InternVL models in the published layout: configurations, modules, tokenizers, chat templates, loading.

Every file but `loading.py`, `checkpoint_files.py`, `file_kinds.py` and `hf_layout.py` travels with saved checkpoints,
so this folder imports nothing of the rest of the package. Its names are loaded when they are asked for: what needs only
its constants or templates does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_internvl_chat import InternVLChatConfig
    from .loading import is_hf_layout, load_config, load_model, load_tokenizer
    from .modeling_internvl_chat import InternVLChatModel

__all__ = [
    "InternVLChatConfig",
    "InternVLChatModel",
    "is_hf_layout",
    "load_config",
    "load_model",
    "load_tokenizer",
]
_HOMES = {"InternVLChatConfig": "configuration_internvl_chat", "InternVLChatModel": "modeling_internvl_chat"}


def __getattr__(name: str) -> Any:
    """A name of `__all__`, from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'loading')}"), name)
