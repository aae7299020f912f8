"""Checkpoints that are broken or that lie: refused by name, before a library or the memory is asked."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from internvl_chat.model import load_config, load_model, load_tokenizer


@pytest.fixture
def folder(qwen2, tmp_path):
    """A copy of a checkpoint, to be spoilt."""
    return shutil.copytree(qwen2.folder, tmp_path / "ckpt")


def edit(path, *keys, **values):
    """Set fields of a JSON file, below `keys`."""
    fields = inner = json.loads(path.read_text())
    for key in keys:
        inner = inner[key]
    inner.update(values)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "must be a JSON object"),
    ],
)
def test_a_broken_json_file_is_named(folder, name, data, reason):
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: {reason}.*download it again"):
        load_model(folder)


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        (None, "weight_map"),
        (["model.safetensors"], "weight_map"),
        ({"a": 5}, "not '5'"),
        ({"a": "../outside/model.safetensors"}, "safetensors files of this folder"),
        ({"a": "/dev/zero"}, "safetensors files of this folder"),
        ({"a": "pytorch_model.bin"}, "safetensors files of this folder"),
    ],
)
def test_an_index_names_weight_files_of_its_folder_only(folder, weight_map, reason):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=rf"index\.json: .*{reason}"):
        load_model(folder)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace("language_model.", "language_model.base_model.model.", 1),
        lambda key: key.replace("q_proj.weight", "q_proj.base_layer.weight"),
        lambda key: key.replace("q_proj.weight", "q_proj.lora_A.default.weight"),
    ],
)
def test_lora_weights_that_were_not_merged_are_named_as_such(folder, rename):
    weights = {rename(key): tensor for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="weights of LoRA adapters that were not merged .*; merge them first"):
        load_model(folder)


def test_an_adapter_is_no_checkpoint(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(ValueError, match="this is an adapter, not a whole checkpoint; merge it first"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"num_hidden_layers": 900}, r"900 layers in llm_config, \d+ stored"),
        ({"hidden_size": 2**20}, "a width of 1048576 in llm_config"),
        ({"intermediate_size": 2**40}, "a width of 1099511627776 in llm_config"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_take_memory(folder, fields, reason):
    edit(folder / "config.json", "llm_config", **fields)
    with pytest.raises(ValueError, match=rf"the weights do not fit config\.json: {reason}"):
        load_model(folder)


@pytest.mark.parametrize("part", ["llm_config", "vision_config"])
def test_layers_beyond_every_model_are_refused_before_they_are_listed(folder, part):
    edit(folder / "config.json", part, num_hidden_layers=10**9)
    with pytest.raises(ValueError, match=rf"1000000000 layers in {part}, more than 10000"):
        load_model(folder)


@pytest.mark.parametrize("part", ["llm_config", "vision_config"])
@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "num_attention_heads"])
@pytest.mark.parametrize("size", ["3", 0, -64, None, 1.5, True])
def test_sizes_are_whole_numbers_above_0(folder, part, name, size):
    edit(folder / "config.json", part, **{name: size})
    with pytest.raises(ValueError, match=rf"{name} in {part} must be a whole number above 0, not "):
        load_config(folder)


@pytest.mark.parametrize(
    ("keys", "fields"),
    [
        ((), {"llm_config": "qwen2"}),
        (("llm_config",), {"model_type": "evil"}),
        (("llm_config",), {"hidden_act": "__import__"}),
        (("llm_config",), {"num_attention_heads": 7}),
        (("llm_config",), {"rms_norm_eps": "small"}),
    ],
)
def test_fields_that_do_not_hold_together_are_our_error(folder, keys, fields):
    edit(folder / "config.json", *keys, **fields)
    with pytest.raises(ValueError, match=r"ckpt: \S+") as raised:
        load_model(folder)
    assert "internvl_chat" in str(raised.traceback[-1].path)


@pytest.mark.parametrize("name", ["Evil", "os", "pipeline", "../evil.Tokenizer", 5])
def test_a_tokenizer_class_is_one_of_transformers(folder, name):
    edit(folder / "tokenizer_config.json", tokenizer_class=name)
    with pytest.raises(ValueError, match=rf"tokenizer_class '{name}' is not part of transformers"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("keys", "fields", "reason"),
    [
        (("model",), {"vocab": {}, "merges": []}, "has no vocabulary"),
        (("model",), {"type": "Evil"}, "no model of a known type"),
        (("model",), {"vocab": {"a": "x"}}, "must be whole numbers"),
        (("model",), {"vocab": {"a": 2**40}}, "must be whole numbers"),
        ((), {"added_tokens": [{"content": "a", "id": -1}]}, "'added_tokens' must be a list"),
        ((), {"added_tokens": 5}, "'added_tokens' must be a list"),
        ((), {"model": None}, "no model of a known type"),
    ],
)
def test_a_tokenizer_lacks_no_part(folder, keys, fields, reason):
    edit(folder / "tokenizer.json", *keys, **fields)
    with pytest.raises(ValueError, match=rf"tokenizer\.json.*{reason}"):
        load_tokenizer(folder)


def test_token_ids_that_have_no_embedding_are_refused(folder):
    path = folder / "tokenizer.json"
    vocabulary = json.loads(path.read_text())["model"]["vocab"]
    edit(path, "model", vocab={**vocabulary, "far": 10**6})
    with pytest.raises(ValueError, match=r"the tokenizer has an id of 1000000, the model \d+ embeddings"):
        load_model(folder)


def test_a_token_that_a_user_added_without_an_embedding_is_refused_by_name(folder):
    """It is content: a row that spells it would be looked up behind the end of the embeddings."""
    tokenizer = load_tokenizer(folder)
    embeddings = load_config(folder).llm_config.vocab_size
    tokenizer.add_tokens([f"<loc_{number}>" for number in range(embeddings - len(tokenizer) + 1)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"'<loc_\d+>' has none; .*call resize_token_embeddings"):
        load_model(folder)
