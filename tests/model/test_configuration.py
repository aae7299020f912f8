import json

import pytest
from transformers import Qwen2Config

from internvl_chat.model import InternVLChatConfig, load_config
from internvl_chat.model.configuration_intern_vit import InternVisionConfig
from internvl_chat.model.configuration_internlm2 import InternLM2Config

# What other tools read. (transformers 5 keeps no generation settings and dead switches, of which there are many.)
VISION_FIELDS = sorted(set(InternVisionConfig.__annotations__) | {"model_type", "torch_dtype"})
LLM_FIELDS = [
    *("model_type", "torch_dtype", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
    *("hidden_act", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "architectures"),
]


def published(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_language_config_follows_its_model_type(family):
    config = load_config(family.folder)
    expected = {"tiny-qwen2": Qwen2Config, "tiny-internlm2": InternLM2Config}[family.name]
    assert type(config.llm_config) is expected
    assert type(config.vision_config) is InternVisionConfig
    assert config.get_text_config() is config.llm_config


def test_num_image_token(build_config):
    config = build_config("qwen2")
    assert config.num_image_token == 4  # (56 / 14 * 0.5) ** 2
    config.force_image_size = 448
    assert config.num_image_token == 256


def test_attention_of_another_machine_is_not_taken_over(internlm2):
    assert published(internlm2.folder)["llm_config"]["attn_implementation"] == "flash_attention_2"
    assert load_config(internlm2.folder).llm_config._attn_implementation is None


def test_rope_scaling_is_read(internlm2):
    rope = load_config(internlm2.folder).llm_config.rope_parameters
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == ("dynamic", 1e6, 2.0)


def test_saved_config_has_the_published_names_and_values(family, tmp_path):
    before = published(family.folder)
    load_config(family.folder).save_pretrained(tmp_path)
    after = published(tmp_path)
    for part, fields in (("vision_config", VISION_FIELDS), ("llm_config", LLM_FIELDS)):
        assert {name: after[part][name] for name in fields} == {name: before[part][name] for name in fields}
    assert after["llm_config"]["rope_scaling"] == before["llm_config"].get("rope_scaling")
    for fields in (after, after["vision_config"], after["llm_config"]):
        assert not {"dtype", "rope_parameters"} & set(fields)
    own = set(before) - {"vision_config", "llm_config", "_commit_hash", "transformers_version"}
    assert {name: after.get(name) for name in own} == {name: before[name] for name in own}


def test_saving_twice_changes_nothing(family, tmp_path):
    load_config(family.folder).save_pretrained(tmp_path / "once")
    load_config(tmp_path / "once").save_pretrained(tmp_path / "twice")
    assert published(tmp_path / "once") == published(tmp_path / "twice")


def test_a_config_made_here_names_the_remote_code(build_config):
    assert build_config("qwen2").auto_map["AutoModel"] == "modeling_internvl_chat.InternVLChatModel"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ps_version": "v3"}, "ps_version is 'v3'"),
        ({"downsample_ratio": 0.0}, "downsample_ratio is 0.0"),
        ({"llm_config": {"model_type": "qwen99"}}, "model_type 'qwen99'"),
        ({"vision_config": {"num_attention_heads": 7}}, "3200 is not a multiple of 7"),
        ({"vision_config": {"norm_type": "batch_norm"}}, "norm_type is 'batch_norm'"),
        ({"llm_config": {"model_type": "internlm2", "num_key_value_heads": 5}}, "32 heads .* 5 key-value heads"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        InternVLChatConfig(**fields)
