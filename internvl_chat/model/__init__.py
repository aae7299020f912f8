"""InternVL models in the published layout: configurations, modules, tokenizers, chat templates, loading.

Every file but `loading.py`, `checkpoint_files.py` and `hf_layout.py` travels with saved checkpoints, so this folder
imports nothing of the rest of the package.
"""

from .configuration_internvl_chat import InternVLChatConfig
from .loading import is_hf_layout, load_config, load_model, load_tokenizer, remote_code_files
from .modeling_internvl_chat import InternVLChatModel

__all__ = [
    "InternVLChatConfig",
    "InternVLChatModel",
    "is_hf_layout",
    "load_config",
    "load_model",
    "load_tokenizer",
    "remote_code_files",
]
