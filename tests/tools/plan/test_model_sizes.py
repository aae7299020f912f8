"""Every published size: parameter count and key names on the meta device; loading and saving files in several parts."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_config
from tools.plan.model_sizes import count_parameters, find_config, meta_model, published_config, published_names

# Billions of parameters: as the hub states them for the weight files (two bytes each: 1.88 GB for 1B, 4.41 GB for 2B,
# 16.2 GB for 8B, 33 files of up to 5 GB for 78B). The project's documentation gives other figures for 4B, 38B and 78B.
PUBLISHED = {
    "InternVL2_5-1B": 0.938,
    "InternVL2_5-2B": 2.21,
    "InternVL2_5-4B": 3.71,
    "InternVL2_5-8B": 8.08,
    "InternVL2_5-26B": 25.5,
    "InternVL2_5-38B": 38.4,
    "InternVL2_5-78B": 78.4,
    "InternVL3-1B": 0.938,
    "InternVL3-2B": 2.09,
    "InternVL3-8B": 7.94,
    "InternVL3-9B": 9.1,
    "InternVL3-14B": 15.1,
    "InternVL3-38B": 38.4,
    "InternVL3-78B": 78.4,
    "InternVL3_5-1B": 1.1,
    "InternVL3_5-2B": 2.3,
    "InternVL3_5-4B": 4.7,
    "InternVL3_5-8B": 8.53,
    "InternVL3_5-14B": 15.1,
    "InternVL3_5-30B-A3B": 30.8,
    "InternVL3_5-GPT-OSS-20B-A4B-Preview": 21.2,
    "InternVL3_5-38B": 38.4,
    "InternVL3_5-241B-A28B": 240.7,
}
VISION = {"300M": 304012288, "6B": 5536496000}
# Non-embedding parameters on the model cards of Qwen2.5 and Qwen3, in billions.
QWEN = {"1B": 0.36, "2B": 1.31, "4B": 2.77, "8B": 6.53, "14B": 13.1, "38B": 31.0, "78B": 70.0}
# gpt-oss-20b's card counts 20.91 in all, 1.16 of them embeddings.
QWEN3 = {
    "GPT-OSS-20B-A4B-Preview": 19.75,
    "1B": 0.44,
    "2B": 1.4,
    "4B": 3.6,
    "8B": 6.95,
    "14B": 13.2,
    "38B": 31.2,
    "30B-A3B": 29.9,
    "241B-A28B": 234,
}


def significant(value, like):
    """The value with as many significant digits as `like` has."""
    return float(f"{value:.{len(str(like).replace('.', '').lstrip('0'))}g}")


def test_the_table_has_every_published_size():
    assert set(published_names()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    count = count_parameters(meta_model(published_config(name)))
    assert significant(count.total / 1e9, PUBLISHED[name]) == PUBLISHED[name]
    assert count.vision == VISION["6B" if name.endswith(("-26B", "-38B", "-78B", "-241B-A28B")) else "300M"]


OF_QWEN = [name for name in PUBLISHED if name.startswith("InternVL3") or name.endswith(("-4B", "-38B"))]


@pytest.mark.parametrize("name", [name for name in OF_QWEN if name != "InternVL3-9B"])
def test_the_language_model_is_that_of_its_model_card(name):
    config = published_config(name)
    language = count_parameters(meta_model(config)).language
    embeddings = 2 * config.llm_config.vocab_size * config.llm_config.hidden_size
    version, _, size = name.partition("-")
    card = (QWEN3 if version == "InternVL3_5" else QWEN)[size]
    assert (language - embeddings) / 1e9 == pytest.approx(card, rel=0.02)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "InternVL2_5-8B",
            {
                "vision_model.embeddings.class_embedding": (1, 1, 1024),
                "vision_model.embeddings.position_embedding": (1, 1025, 1024),
                "vision_model.encoder.layers.23.attn.qkv.bias": (3072,),
                "vision_model.encoder.layers.23.ls2": (1024,),
                "mlp1.0.weight": (4096,),
                "mlp1.3.weight": (4096, 4096),
                "language_model.model.tok_embeddings.weight": (92553, 4096),
                "language_model.model.layers.31.attention.wqkv.weight": (6144, 4096),
                "language_model.model.layers.31.feed_forward.w2.weight": (4096, 14336),
                "language_model.output.weight": (92553, 4096),
            },
        ),
        (
            "InternVL3-78B-Instruct",
            {
                "vision_model.encoder.layers.44.attn.q_norm.weight": (3200,),
                "vision_model.encoder.layers.44.attn.qkv.weight": (9600, 3200),
                "vision_model.encoder.layers.44.mlp.fc1.weight": (12800, 3200),
                "mlp1.1.weight": (8192, 12800),
                "language_model.model.embed_tokens.weight": (151674, 8192),
                "language_model.model.layers.79.self_attn.k_proj.bias": (1024,),
                "language_model.model.layers.79.mlp.down_proj.weight": (8192, 29568),
                "language_model.lm_head.weight": (151674, 8192),
            },
        ),
        (
            "InternVL3_5-1B-Instruct",
            {
                "language_model.model.embed_tokens.weight": (151936, 1024),
                "language_model.model.layers.27.self_attn.q_proj.weight": (2048, 1024),
                "language_model.model.layers.27.self_attn.q_norm.weight": (128,),
                "language_model.lm_head.weight": (151936, 1024),
            },
        ),
        (
            "InternVL3_5-GPT-OSS-20B-A4B-Preview",
            {
                "language_model.model.embed_tokens.weight": (200028, 2880),
                "language_model.model.layers.23.self_attn.q_proj.bias": (4096,),
                "language_model.model.layers.23.self_attn.sinks": (64,),
                "language_model.model.layers.23.mlp.router.weight": (32, 2880),
                "language_model.model.layers.23.mlp.experts.gate_up_proj": (32, 2880, 5760),
                "language_model.model.layers.23.mlp.experts.down_proj_bias": (32, 2880),
            },
        ),
    ],
)
def test_keys_and_shapes_are_those_of_the_published_files(name, keys):
    shapes = {key: tuple(tensor.shape) for key, tensor in meta_model(published_config(name)).state_dict().items()}
    assert {key: shapes.get(key) for key in keys} == keys


def test_a_folder_counts_before_the_table(golden, tmp_path):
    assert find_config(golden.ckpt)[1]
    assert not find_config(str(tmp_path / "InternVL2_5-8B-MPO"))[1]


def test_a_name_that_the_hub_knows_is_as_good_as_a_folder(golden, tmp_path, monkeypatch):
    config = load_config(golden.ckpt)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.plan.model_sizes.load_config", {"me/mine": config}.__getitem__)
    assert find_config("me/mine") == (config, True)


def test_without_the_hub_a_published_name_still_has_its_shapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config, is_there = find_config("OpenGVLab/InternVL2_5-8B")
    assert config.llm_config.num_hidden_layers == 32 and not is_there
    with pytest.raises(ValueError, match="the shapes of mine are not known"):
        find_config("me/mine")


@pytest.fixture(scope="module")
def checkpoint(golden, tmp_path_factory):
    """(folder, bytes) of a float32 checkpoint of 0.5 GB in several files."""
    vision = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    vision |= {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False, "image_size": 56}
    language = {"model_type": "qwen2", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 10}
    language |= {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 632, "tie_word_embeddings": False}
    config = InternVLChatConfig(
        vision_config={**vision, "patch_size": 14},
        llm_config=language,
        template="internvl2_5",
        ps_version="v2",
        force_image_size=56,
    )
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    shutil.copytree(golden.ckpt, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    InternVLChatModel(config).save_pretrained(folder, max_shard_size="120MB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) >= 4
    return folder, sum(file.stat().st_size for file in files)


def peak(*words):
    result = subprocess.run(
        [sys.executable, "-m", "tests.peak_memory", *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return int(result.stdout.split("peak")[-1])


@pytest.mark.integration
def test_loading_several_files_never_holds_two_copies(checkpoint):
    folder, size = checkpoint
    assert peak("load", folder) <= 1.2 * size


@pytest.mark.integration
def test_saving_several_files_never_holds_two_copies(checkpoint, tmp_path):
    folder, size = checkpoint
    assert peak("export", folder, tmp_path) <= 1.2 * size
    before, after = (read(path) for path in (folder, tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def read(folder):
    weights = {}
    for path in folder.glob("*.safetensors"):
        weights |= load_file(path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():  # names the file of each weight
        for key, name in json.loads(index.read_text())["weight_map"].items():
            with safe_open(folder / name, framework="pt") as file:
                assert key in file.keys()  # noqa: SIM118
    return weights
