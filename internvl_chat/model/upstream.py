"""Names of other libraries that are not public, or not promised to stay: every one that we import is looked up here.

They are loaded when they are asked for, so the table costs nothing where one of the libraries is missing. At an upgrade
`tests/model/test_upstream.py` names what is gone and what takes other arguments, attributes and methods of their
classes included. This file travels with checkpoints, whose modules need some of the names.
"""

from pkgutil import resolve_name
from typing import Any

PATHS = (
    "accelerate.data_loader:prepare_data_loader",
    "deepspeed.ops:__compatible_ops__",
    "lmdeploy.serve.core.async_engine:PreprocessedRequest",
    "lmdeploy.serve.core.exceptions:RequestError",
    "peft.tuners.lora:LoraLayer",
    "torch.distributed.nn.functional:all_to_all_single",
    "torch.nn.attention.varlen:AuxRequest",
    "torch.nn.attention.varlen:varlen_attn",
    "torch:ops.aten._flash_attention_backward",
    "transformers.activations:ACT2FN",
    "transformers.conversion_mapping:register_checkpoint_conversion_mapping",
    "transformers.core_model_loading:Concatenate",
    "transformers.core_model_loading:WeightConverter",
    "transformers.core_model_loading:WeightRenaming",
    "transformers.initialization",
    "transformers.masking_utils:create_causal_mask",
    "transformers.modeling_layers:GradientCheckpointingLayer",
    "transformers.modeling_utils:ALL_ATTENTION_FUNCTIONS",
    "transformers.models.auto.tokenization_auto:get_tokenizer_config",
    "transformers.models.llama.modeling_llama:LlamaRMSNorm",
    "transformers.models.llama.modeling_llama:LlamaRotaryEmbedding",
    "transformers.models.llama.modeling_llama:apply_rotary_pos_emb",
    "transformers.models.llama.modeling_llama:eager_attention_forward",
    "transformers.quantizers.quantizers_utils:should_convert_module",
    "transformers.tokenization_utils_sentencepiece:SentencePieceBackend",
    "transformers.trainer:TRAINER_STATE_NAME",
    "transformers.trainer_pt_utils:get_length_grouped_indices",
    "transformers.trainer_pt_utils:get_parameter_names",
    "transformers.trainer_utils:PREFIX_CHECKPOINT_DIR",
    "transformers.trainer_utils:TrainOutput",
    "transformers.trainer_utils:rotate_checkpoints",
    "transformers.utils.generic:merge_with_config_defaults",
    "transformers.utils.output_capturing:capture_outputs",
    "transformers.utils.quantization_config:QuantizationConfigMixin",
    "transformers.utils:can_return_tuple",
    "trl.models.utils:prepare_deepspeed",
    "trl.trainer.callbacks:SyncRefModelCallback",
)
_HOMES = {path.replace(":", ".").rpartition(".")[2]: path for path in PATHS}


def __getattr__(name: str) -> Any:
    """A name of the table, from its library (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(_HOMES[name])
