"""Configuration of a whole InternVL chat model, read and written in the layout of the published checkpoints."""

from copy import deepcopy
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from .configuration_intern_vit import InternVisionConfig
from .configuration_internlm2 import InternLM2Config

# Lets `AutoModel.from_pretrained(folder, trust_remote_code=True)` find the files that travel with a checkpoint.
AUTO_MAP = {
    "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
    "AutoModel": "modeling_internvl_chat.InternVLChatModel",
    "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
}


def _vision_config(fields: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """Return the configuration object of InternViT that `fields` are or describe."""
    return fields if isinstance(fields, PreTrainedConfig) else InternVisionConfig(**(fields or {}))


def _language_config(fields: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """Return the configuration object of the language model that `fields` are or describe."""
    if isinstance(fields, PreTrainedConfig):
        return fields
    fields = deepcopy(fields) or {"model_type": InternLM2Config.model_type}
    # What the machine of the checkpoint's author used says nothing about ours; flash there would fail on a CPU.
    fields.pop("attn_implementation", None)
    fields.pop("_attn_implementation", None)
    model_type = fields.get("model_type")
    if model_type == InternLM2Config.model_type:
        return InternLM2Config(**fields)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"llm_config has model_type {model_type!r}, which neither this package nor transformers knows; "
            "InternVL uses 'internlm2', 'qwen2', 'qwen3', 'llama', ..."
        )
    return CONFIG_MAPPING[model_type](**fields)


def _publish(fields: dict) -> dict:
    """Rename in place, at all levels, what transformers 5 renamed: other tools read the published names."""
    if "dtype" in fields:
        fields["torch_dtype"] = fields.pop("dtype")
    if "rope_theta" in (fields.get("rope_parameters") or {}):
        rope = {name: value for name, value in fields.pop("rope_parameters").items() if name != "type"}
        fields["rope_theta"], kind = rope.pop("rope_theta"), rope.pop("rope_type")
        fields["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    for name in ("vision_config", "llm_config"):
        if name in fields:
            _publish(fields[name])
    return fields


class InternVLChatConfig(PreTrainedConfig):
    """InternViT + pixel shuffle + MLP + language model.

    Attributes:
        vision_config: of InternViT; an object, or its fields; defaults when None.
        llm_config: of the language model, an object, or its fields with `model_type`; InternLM2 when None.
        template: name of the chat template, see `conversation.py`.
        select_layer: which hidden state of InternViT feeds the MLP: -1 the last, -2 the one before, ...
        force_image_size: side of a tile in pixels; that of `vision_config` when None.
        downsample_ratio: pixel shuffle factor in (0, 1]: a tile has (image / patch * ratio) ** 2 image tokens.
        ps_version: "v2", or "v1", whose pixel shuffle leaves the picture transposed.
        dynamic_image_size: tile pictures by their aspect ratio.
        use_thumbnail: add the whole picture as a last tile when there are several.
        min_dynamic_patch: fewest tiles of a picture.
        max_dynamic_patch: most tiles of a picture, without the thumbnail.
        pad2square: pad pictures to squares instead of stretching them.
        use_backbone_lora: LoRA rank that the checkpoint was made with in the vision model; 0 none.
        use_llm_lora: likewise in the language model.
        critic: {"system_message": ..., "layout": ...} of a critic of steps (a process reward model), written by its
            training; the layout is `turns` where it is missing. None for a model that answers questions.
        auto_map: where the classes stand for `trust_remote_code`.

    Raises:
        ValueError: the language model type, pixel shuffle version or ratio is unknown, or `critic` lacks its message.
    """

    model_type = "internvl_chat"
    sub_configs = {"vision_config": InternVisionConfig, "llm_config": PreTrainedConfig}

    vision_config: Any = None
    llm_config: Any = None
    template: str | None = None
    select_layer: int = -1
    force_image_size: int | None = None
    downsample_ratio: float = 0.5
    ps_version: str = "v1"
    dynamic_image_size: bool = False
    use_thumbnail: bool = False
    min_dynamic_patch: int = 1
    max_dynamic_patch: int = 6
    pad2square: bool = False
    use_backbone_lora: int = 0
    use_llm_lora: int = 0
    critic: dict | None = None
    auto_map: dict | None = None

    def __post_init__(self, **kwargs: object) -> None:
        if self.ps_version not in ("v1", "v2"):
            raise ValueError(f"ps_version is {self.ps_version!r}; known: 'v1', 'v2'")
        if not 0 < self.downsample_ratio <= 1:
            raise ValueError(f"downsample_ratio is {self.downsample_ratio}; it must be in (0, 1]")
        if self.critic and not (isinstance(self.critic, dict) and isinstance(self.critic.get("system_message"), str)):
            raise ValueError(f"critic is {self.critic!r}; it must have the text 'system_message', or be null")
        self.vision_config = _vision_config(self.vision_config)
        self.llm_config = _language_config(self.llm_config)
        self.auto_map = self.auto_map or dict(AUTO_MAP)
        super().__post_init__(**kwargs)

    @property
    def num_image_token(self) -> int:
        """P, image tokens of one tile."""
        side = (self.force_image_size or self.vision_config.image_size) // self.vision_config.patch_size
        return int(side**2 * self.downsample_ratio**2)

    @property
    def text_config(self) -> PreTrainedConfig:
        """`llm_config` by transformers' name: DeepSpeed's `auto` settings go by its `hidden_size`."""
        return self.llm_config

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return `llm_config`; transformers asks for it when it resizes embeddings and makes caches."""
        return self.llm_config

    def to_diff_dict(self) -> dict:
        """Return the fields that go into config.json, under their published names."""
        fields = super().to_diff_dict()
        for name in self.sub_configs:  # those of a model built here, not loaded, are still empty
            fields[name]["dtype"] = fields[name].get("dtype") or fields.get("dtype")
        return _publish(fields)
