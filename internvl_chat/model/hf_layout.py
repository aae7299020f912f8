"""The `-hf` layout: InternVL as transformers' own `InternVLForConditionalGeneration` reads and writes it.

The same network under other names: weights `vision_tower.* multi_modal_projector.* language_model.*`, queries, keys and
values of the vision tower in three matrices instead of one, and a config.json of model type `internvl`. transformers
keeps as data what it does to weights between file and model. `InternVLChatModelHF` is the published model with data of
that kind (`register_weight_names`): it reads these files, trains as ever, and saves what it read.
"""

import json
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, InternVLConfig

from .configuration_internvl_chat import InternVLChatConfig
from .conversation import TEMPLATES
from .modeling_internvl_chat import InternVLChatModel
from .upstream import Concatenate, WeightConverter, WeightRenaming, register_checkpoint_conversion_mapping

HF_MODEL_TYPE = InternVLConfig.model_type
DEFAULT_TEMPLATE = "internvl2_5"  # what all -hf checkpoints were trained with, but for those of a language model here
_TEMPLATES_OF = {"gpt_oss": "internvl3_5_gpt_oss"}
# Beginnings and parts of weight names: in -hf files, in published ones. Those of the language model are the same.
_NAMES = {
    "^multi_modal_projector.layer_norm.": "mlp1.0.",
    "^multi_modal_projector.linear_1.": "mlp1.1.",
    "^multi_modal_projector.linear_2.": "mlp1.3.",
    "^vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "^vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "^vision_tower.embeddings.patch_embeddings.projection.": "vision_model.embeddings.patch_embedding.",
    "^vision_tower.encoder.layer.": "vision_model.encoder.layers.",
    ".attention.projection_layer.": ".attn.proj.",
    ".attention.q_norm.": ".attn.q_norm.",
    ".attention.k_norm.": ".attn.k_norm.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".lambda_1": ".ls1",
    ".lambda_2": ".ls2",
}
_QUERY_KEY_VALUE = [f".attention.{part}_proj." for part in "qkv"]
_VISION_FIELDS = {  # of vision_config: name in published files, in -hf files
    "num_channels": "num_channels",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
    "norm_type": "norm_type",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_act": "hidden_act",
    "dropout": "projection_dropout",
    "attention_dropout": "attention_dropout",
    "initializer_range": "initializer_range",
    "initializer_factor": "layer_scale_init_value",
}
_HF_NORM_EPS = 1e-6  # of normalised queries and keys there, whatever layer_norm_eps says


class InternVLChatModelHF(InternVLChatModel):
    """The published model with files in the `-hf` layout; `register_weight_names` comes before reading or writing."""


def register_weight_names() -> None:
    """Tell transformers how weights get from the files of `InternVLChatModelHF` to the model; saving goes backwards."""
    names = [WeightRenaming(_pattern(there), _pattern(here)) for there, here in _NAMES.items()]
    parts = [_pattern(name) for name in _QUERY_KEY_VALUE]
    names += [WeightConverter(parts, _pattern(".attn.qkv."), [Concatenate(dim=0)])]
    register_checkpoint_conversion_mapping(InternVLChatModelHF.__name__, names, overwrite=True)


def _pattern(name: str) -> str:
    """Return a part of a name as a regular expression, as transformers wants both sides: either may be searched for."""
    return name.replace(".", r"\.")


def _template_in(chat_template: str) -> str | None:
    """The first of our templates whose system message stands in this jinja; one without a message has no mark there."""
    messages = {t.name: json.dumps(t.system_message, ensure_ascii=False)[1:-1] for t in TEMPLATES.values()}
    return next((name for name, message in messages.items() if message and message in chat_template), None)


def config_from_hf(
    fields: dict[str, Any], image_settings: dict[str, Any], chat_template: str = ""
) -> InternVLChatConfig:
    """Return the published form of an `-hf` configuration.

    Args:
        fields: of config.json.
        image_settings: of the image processor, which has the limits of tiles; may be empty.
        chat_template: jinja; tells which of our templates it is by its system message.

    Raises:
        ValueError: the configuration asks for what no published InternVL has.
    """
    there = InternVLConfig.from_dict(fields)
    vision, text = there.vision_config, there.text_config
    _check_hf(there)
    template = _template_in(chat_template) or _TEMPLATES_OF.get(text.model_type, DEFAULT_TEMPLATE)
    vision_fields = {here: _single(getattr(vision, name)) for here, name in _VISION_FIELDS.items()}
    language_model = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)].__name__
    tied = fields.get("tie_word_embeddings", text.tie_word_embeddings)
    return InternVLChatConfig(
        vision_config={**vision_fields, "architectures": ["InternVisionModel"]},
        llm_config={**text.to_dict(), "architectures": [language_model], "tie_word_embeddings": tied},
        architectures=["InternVLChatModel"],
        template=template,
        select_layer=there.vision_feature_layer,
        force_image_size=vision_fields["image_size"],
        downsample_ratio=there.downsample_ratio,
        ps_version="v2",
        dynamic_image_size=True,
        use_thumbnail=True,
        min_dynamic_patch=image_settings.get("min_patches", 1),
        max_dynamic_patch=image_settings.get("max_patches", 12),
        critic=fields.get("critic"),
        tie_word_embeddings=tied,
        dtype=fields.get("dtype") or fields.get("torch_dtype"),
    )


def run_settings(config: InternVLChatConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a training may set, as fields of an `-hf` config.json and of its image processor."""
    side = config.force_image_size or config.vision_config.image_size
    least, most = (config.min_dynamic_patch, config.max_dynamic_patch) if config.dynamic_image_size else (1, 1)
    model = {
        "image_seq_length": config.num_image_token,
        "downsample_ratio": config.downsample_ratio,
        "vision_feature_layer": config.select_layer,
    } | ({"critic": config.critic} if config.critic else {})
    return model, {"size": {"height": side, "width": side}, "min_patches": least, "max_patches": most}


def config_to_hf(config: InternVLChatConfig, image_token_id: int) -> InternVLConfig:
    """Return the `-hf` form of a published configuration.

    Args:
        config: published.
        image_token_id: id of `<IMG_CONTEXT>`.

    Raises:
        ValueError: the `-hf` layout has no word for something in it.
    """
    check_has_hf_form(config)
    vision = {there: getattr(config.vision_config, here) for here, there in _VISION_FIELDS.items()}
    tied = config.llm_config.tie_word_embeddings
    return InternVLConfig(
        vision_config=vision,
        text_config=config.llm_config.to_dict(),
        image_token_id=image_token_id,
        **run_settings(config)[0],
        tie_word_embeddings=tied,
        architectures=["InternVLForConditionalGeneration"],
        dtype=config.dtype,
    )


def _single(value: Any) -> Any:
    """Return the side of a square that is written as (side, side); any other value as it is."""
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"sides {tuple(value)} in vision_config: the tiles and patches of InternVL are squares")
    return value[0]


def _check_hf(config: InternVLConfig) -> None:
    """Raise ValueError for options of the class in transformers that no published InternVL has."""
    expected = {"projector_hidden_act": "gelu", "vision_feature_select_strategy": "default"}
    wrong = {name: value for name in expected if (value := getattr(config, name)) != expected[name]}
    if not isinstance(config.vision_feature_layer, int):
        wrong["vision_feature_layer"] = config.vision_feature_layer
    if type(config.text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        wrong["text_config.model_type"] = config.text_config.model_type
    if wrong:
        raise ValueError(f"config.json has {wrong}, which no published InternVL has: it cannot be read as one")


def check_has_hf_form(config: InternVLChatConfig) -> None:
    """Raise ValueError where transformers' class would compute something else than a model of this configuration."""
    vision, language = config.vision_config, config.llm_config.model_type
    # not CONFIG_MAPPING, where an engine may have registered ours
    if not type(config.llm_config).__module__.startswith("transformers."):
        raise ValueError(
            f"the language model is {language!r}, for which transformers has no class, hence there is no -hf layout; "
            "keep the published layout, which transformers loads with trust_remote_code=True"
        )
    if config.ps_version != "v2":
        raise ValueError(f"ps_version is {config.ps_version!r}; the -hf layout knows only the pixel shuffle of 'v2'")
    if config.pad2square or not config.use_thumbnail and config.max_dynamic_patch > 1:
        raise ValueError("pad2square and tiles without a thumbnail have no place in the -hf layout")
    if vision.qk_normalization and vision.layer_norm_eps != _HF_NORM_EPS:
        raise ValueError(
            f"layer_norm_eps is {vision.layer_norm_eps}; the -hf layout normalises queries and keys with {_HF_NORM_EPS}"
        )
