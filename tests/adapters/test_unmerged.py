"""Checkpoints of the original that hold their adapters: refused with the command that merges them, and merged by it."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from internvl_chat.adapters.unmerged import merge_adapters
from internvl_chat.model import load_model
from tests.door import end_of
from tools import merge_lora

LAYERS = {
    "tiny-qwen2": ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"],
    "tiny-internlm2": ["attention.wqkv", "attention.wo", "feed_forward.w2"],
}


def wrap(part, rank, layers):
    """A part of a model as the original wraps it, with adapters that have an effect."""
    wrapped = get_peft_model(part, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))
    for name, weight in wrapped.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    return wrapped


@pytest.fixture(params=LAYERS)
def trained(request, golden_folder, tmp_path):
    """A folder as the original's LoRA training leaves it, and the weights that it stands for."""
    folder = shutil.copytree(golden_folder / "ckpt" / request.param, tmp_path / "trained")
    model = load_model(folder)
    model.language_model = wrap(model.language_model, 4, LAYERS[request.param])
    model.vision_model = wrap(model.vision_model, 2, ["attn.qkv", "mlp.fc1"])
    save_file(
        {name: weight.contiguous().clone() for name, weight in model.state_dict().items()}, folder / "model.safetensors"
    )
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "use_llm_lora": 4, "use_backbone_lora": 2}))
    model.language_model = model.language_model.merge_and_unload()
    model.vision_model = model.vision_model.merge_and_unload()
    return folder, model.state_dict()


def test_it_is_refused_with_the_command_that_merges_it(trained, tmp_path, capsys):
    folder, expected = trained
    with pytest.raises(ValueError, match="not merged") as refused:
        load_model(folder)
    words = str(refused.value).partition("tools/merge_lora.py ")[2].split()
    assert end_of(merge_lora.main, *words) == 0
    merged = load_model(tmp_path / "trained_merged")
    assert merged.config.use_llm_lora == merged.config.use_backbone_lora == 0
    found = merged.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)
    assert end_of(merge_lora.main, *words) == 2 and "holds a checkpoint already" in capsys.readouterr().err


def test_names_of_an_older_peft_are_the_same():
    weights = {
        "language_model.base_model.model.model.a.weight": torch.eye(2, dtype=torch.bfloat16),
        "language_model.base_model.model.model.a.lora_A.default.weight": torch.tensor([[1.0, 2.0]]),
        "language_model.base_model.model.model.a.lora_B.default.weight": torch.tensor([[1.0], [0.5]]),
        "mlp1.0.weight": torch.ones(1),
    }
    merged = merge_adapters(weights)
    assert merged.keys() == {"language_model.model.a.weight", "mlp1.0.weight"}
    assert merged["language_model.model.a.weight"].tolist() == [[3.0, 4.0], [1.0, 3.0]]  # I + 2 B A
    assert merged["language_model.model.a.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("lost", ["lora_A", "lora_B", "base_layer"])
def test_half_an_adapter_is_refused(trained, lost):
    folder, _ = trained
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if f".{lost}." in name and name.endswith("weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    assert end_of(merge_lora.main, "--adapter", folder, "--out", folder / "out") == 2
