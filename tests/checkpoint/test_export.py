"""Exported folders: the source with new weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.model import load_config, load_model, load_tokenizer
from tools.checkpoints.conversion import convert_to_hf

CHECKPOINTS = ("tiny-qwen2", "tiny-qwen2-policy", "tiny-internlm2", "tiny-internlm2-policy")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_untrained_export_equals_its_source(golden_folder, tmp_path, name):
    source = golden_folder / "ckpt" / name
    export_checkpoint(load_model(source), source, tmp_path)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key
    text = "Answer: 12 km/h 中国 <|im_end|>\n  <IMG_CONTEXT>!"
    assert load_tokenizer(tmp_path)(text).input_ids == load_tokenizer(source)(text).input_ids
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((source / "config.json").read_text())


def test_companions_travel_and_run_state_does_not(golden, policy, tmp_path):
    source, folder = tmp_path / "source", tmp_path / "out"
    shutil.copytree(golden.ckpt_policy, source)
    (source / "modeling_internvl_chat.py").write_text("# theirs")
    (source / "trainer_state.json").write_text("{}")
    export_checkpoint(policy, source, folder)
    assert (folder / "modeling_internvl_chat.py").read_text() == "# theirs"
    assert not (folder / "configuration_internvl_chat.py").exists()  # never a mix of their code and ours
    assert not (folder / "trainer_state.json").exists()
    assert (folder / "preprocessor_config.json").exists()


def test_our_code_travels_where_the_source_brought_none(golden, policy, tmp_path):
    export_checkpoint(policy, golden.ckpt_policy, tmp_path)
    named = json.loads((tmp_path / "config.json").read_text())["auto_map"].values()
    for target in named:
        assert (tmp_path / f"{target.split('.')[0]}.py").is_file()


def test_given_weights_are_written_in_the_dtype_of_the_source(golden, policy, tmp_path):
    weights = {name: torch.zeros_like(tensor).bfloat16() for name, tensor in policy.state_dict().items()}
    export_checkpoint(policy, golden.ckpt_policy, tmp_path / "float32", state_dict=weights)
    stored = load_file(tmp_path / "float32" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 and not tensor.any() for tensor in stored.values())
    policy.bfloat16().save_pretrained(tmp_path / "half")
    export_checkpoint(policy.float(), tmp_path / "half", tmp_path / "bfloat16")
    stored = load_file(tmp_path / "bfloat16" / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 for tensor in stored.values())


def test_a_run_sets_only_its_own_fields(golden, policy, tmp_path):
    policy.config.max_dynamic_patch = 3
    policy.config.llm_config.rope_theta = -1  # not a field that a run sets
    export_checkpoint(policy, golden.ckpt_policy, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["max_dynamic_patch"] == 3
    assert config["llm_config"]["rope_theta"] == 1000000.0


CHANGED = {
    "template": "Hermes-2",
    "select_layer": -2,
    "ps_version": "v1",
    "downsample_ratio": 0.25,
    "force_image_size": 112,
    "dynamic_image_size": False,
    "use_thumbnail": False,
    "pad2square": True,
    "min_dynamic_patch": 2,
    "max_dynamic_patch": 3,
}


def test_every_field_that_a_run_sets_is_kept(golden, policy, tmp_path):
    before = json.loads((Path(golden.ckpt_policy) / "config.json").read_text())
    assert all(before[name] != value for name, value in CHANGED.items())
    for name, value in CHANGED.items():
        setattr(policy.config, name, value)
    policy.config.vision_config.image_size = 112
    export_checkpoint(policy, golden.ckpt_policy, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {name: config[name] for name in CHANGED} == CHANGED
    assert config["vision_config"] == {**before["vision_config"], "image_size": 112}


def test_remote_code_that_the_source_names_is_named_again(golden, policy, tmp_path):
    source = shutil.copytree(golden.ckpt_policy, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    named = {"AutoModel": "modeling_theirs.InternVLChatModel"}
    (source / "config.json").write_text(json.dumps({**config, "auto_map": named}))
    export_checkpoint(policy, source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"] == named


@pytest.fixture
def hf_source(golden, tmp_path):
    """The golden policy in the -hf layout, in bfloat16."""
    load_model(golden.ckpt_policy, dtype=torch.bfloat16).save_pretrained(tmp_path / "published")
    for path in Path(golden.ckpt_policy).glob("*token*"):
        shutil.copy(path, tmp_path / "published")
    convert_to_hf(tmp_path / "published", tmp_path / "hf")
    return tmp_path / "hf"


def test_an_untrained_hf_export_equals_its_source(hf_source, tmp_path):
    export_checkpoint(load_model(hf_source, dtype=torch.float32), hf_source, tmp_path / "out")
    before, after = load_file(hf_source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(after[key].dtype == torch.bfloat16 and torch.equal(before[key], after[key]) for key in before)
    assert {path.name for path in hf_source.iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((hf_source / name).read_text())


def test_a_run_from_hf_sets_its_fields_in_the_files_of_the_layout(hf_source, tmp_path):
    config = load_config(hf_source)
    config.max_dynamic_patch, config.select_layer, config.critic = 3, -2, {"system_message": "Judge."}
    export_checkpoint(load_model(hf_source, config=config), hf_source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "processor_config.json").read_text())["image_processor"]["max_patches"] == 3
    again = load_config(tmp_path / "out")
    assert (again.max_dynamic_patch, again.select_layer, again.critic) == (3, -2, {"system_message": "Judge."})


def test_what_could_not_be_saved_as_hf_is_refused_when_it_is_loaded(hf_source):
    config = load_config(hf_source)
    config.pad2square = True
    with pytest.raises(ValueError, match="pad2square.*no place in the -hf layout"):
        load_model(hf_source, config=config)
