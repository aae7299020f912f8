import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

from internvl_chat.model import load_config, load_model, load_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(qwen2, tmp_path):
    """A copy of a checkpoint, to be spoilt."""
    return shutil.copytree(qwen2.folder, tmp_path / "ckpt")


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("side", ["folder", "policy_folder"])
def test_loading_and_saving_changes_no_byte_of_the_weights(family, side, tmp_path):
    source = getattr(family, side)
    load_model(source).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert load_config(tmp_path).to_dict() == load_config(source).to_dict()
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == json.loads((source / "generation_config.json").read_text())["eos_token_id"]


def test_loading_and_saving_the_tokenizer(family, tmp_path):
    family.tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == family.tokenizer.get_vocab()
    assert again.special_tokens_map == family.tokenizer.special_tokens_map
    for sample in ("en-6", "zh-5"):
        text = family.tokenizer.decode(family.sequence(sample, "chosen")[0])
        expected = family.tokenizer(text, add_special_tokens=False).input_ids
        assert expected
        assert again(text, add_special_tokens=False).input_ids == expected


def test_sharded_bfloat16_checkpoint_keeps_keys_and_dtype(family, tmp_path):
    model = load_model(family.folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="150KB")
    family.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    again = load_model(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, weight in again.state_dict().items():
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, model.state_dict()[name]), name


def test_dtype_is_that_of_the_files_whatever_the_config_says(folder):
    edit_config(folder, torch_dtype="bfloat16")
    assert load_model(folder).dtype == torch.float32


def test_context_token_and_mode(family):
    model = load_model(family.folder)
    assert model.img_context_token_id == family.samples["tokenizer"]["img_context"]
    assert not model.training


def test_a_given_config_is_used_and_left_alone(qwen2):
    config = load_config(qwen2.folder)
    config.vision_config.drop_path_rate = 0.3
    model = load_model(qwen2.folder, config=config)
    assert model.vision_model.encoder.layers[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert model.config is not config and config.dtype == torch.float32


def test_model_max_length(family):
    assert load_tokenizer(family.folder).model_max_length == 8192
    assert load_tokenizer(family.folder, model_max_length=99).model_max_length == 99


@pytest.mark.parametrize(
    ("model_type", "extra"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 16}),
        ("qwen3_moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        ("llama", {}),
        ("internlm2", {"tie_word_embeddings": True, "bias": True}),
        ("internlm3", {"head_dim": 16}),
    ],
)
def test_other_language_models_come_back_the_same(build_model, qwen2, tmp_path, model_type, extra):
    if model_type != "internlm2" and model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    model = build_model(model_type, **extra)
    model.save_pretrained(tmp_path / "once")
    for name in TOKENIZER_FILES:
        shutil.copy(qwen2.folder / name, tmp_path / "once")
    again = load_model(tmp_path / "once")
    ids = torch.arange(12)[None]
    ids[0, 2:6] = model.img_context_token_id
    tiles = torch.randint(0, 255, (1, 3, 56, 56), dtype=torch.uint8)
    assert torch.equal(again(tiles, ids).logits, model(tiles, ids).logits)
    again.save_pretrained(tmp_path / "twice")
    once, twice = (load_file(tmp_path / part / "model.safetensors") for part in ("once", "twice"))
    assert once.keys() == twice.keys()
    assert ("language_model.lm_head.weight" in once) == (model_type in ("qwen3", "qwen3_moe", "llama", "internlm3"))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    if model_type == "qwen3_moe":  # transformers fuses experts; files keep them apart, as published
        assert "language_model.model.layers.0.mlp.experts.3.gate_proj.weight" in once


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such checkpoint folder; .*hf download"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["./relative", "ckpt/InternVL2_5-8B/x", "nowhere", "../up"])
def test_a_path_is_not_taken_for_a_hub_name(name):
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        load_config(name)


def test_a_hub_name_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="nobody/nothing-here"):
        load_config("nobody/nothing-here")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="ckpt: no .* in this folder; the download is incomplete"):
        load_model(folder)


def test_only_pickled_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="only pickled weights .pytorch_model.bin.*convert them to safetensors"):
        load_model(folder)


def test_a_missing_shard(family, tmp_path):
    load_model(family.folder).save_pretrained(tmp_path, max_shard_size="300KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of .* weight files are missing .{lost.name}"):
        load_model(tmp_path)


def test_weights_cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="broken or cut short .*download it again"):
        load_model(folder)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [("qwen2_vl", "model_type 'qwen2_vl', expected 'internvl_chat' or.*'internvl'$")],
)
def test_another_architecture(folder, model_type, message):
    edit_config(folder, model_type=model_type)
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not JSON .*; download it again"):
        load_config(folder)


def test_a_missing_weight_raises_instead_of_a_random_one(folder):
    edit_weights(folder, lambda weights: weights.pop("mlp1.1.weight"))
    with pytest.raises(ValueError, match="do not fit config.json .1 missing: mlp1.1.weight"):
        load_model(folder)


def test_a_weight_left_over(folder):
    edit_weights(folder, lambda weights: weights.update({"mlp2.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="1 unexpected: mlp2.weight"):
        load_model(folder)


def test_a_weight_of_another_shape(folder):
    edit_weights(folder, lambda weights: weights.update({"mlp1.1.weight": torch.zeros(64, 100)}))
    with pytest.raises(
        ValueError, match=r"1 of another shape: mlp1.1.weight \(64, 100\) in the file, \(64, 192\) here"
    ):
        load_model(folder)


def test_many_wrong_weights_are_counted_and_the_first_named(folder):
    edit_config(
        folder, llm_config={**json.loads((folder / "config.json").read_text())["llm_config"], "num_hidden_layers": 3}
    )
    with pytest.raises(
        ValueError, match=r"12 missing: language_model.model.layers.2.input_layernorm.weight, .*, \.\.\."
    ):
        load_model(folder)


def test_a_tokenizer_that_needs_remote_code(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "StrangeTokenizer"}))
    with pytest.raises(ValueError, match="'StrangeTokenizer' is not part of transformers and would need remote code"):
        load_tokenizer(folder)


def test_a_tokenizer_whose_vocabulary_is_gone(folder):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match="gives no ids for 'a'"):
        load_tokenizer(folder)


def test_a_tokenizer_of_another_model(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<IMG_CONTEXT>", "<OTHER>"))
    with pytest.raises(ValueError, match="does not know <IMG_CONTEXT>"):
        load_tokenizer(folder)


def test_no_code_of_the_checkpoint_runs(folder):
    (folder / "modeling_internvl_chat.py").write_text("raise SystemExit('remote code ran')")
    (folder / "configuration_internvl_chat.py").write_text("raise SystemExit('remote code ran')")
    assert load_model(folder).num_parameters() > 0
