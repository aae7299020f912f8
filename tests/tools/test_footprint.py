"""The estimate before a run against what is measured, and what the dry run says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from internvl_chat.model import InternVLChatConfig, InternVLChatModel, load_config
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.memory import StepLoad, Weights, language_tower, vision_tower
from internvl_chat.packed.packing import pack_batch
from internvl_chat.train_mpo import main as train
from internvl_chat.training import parse_arguments
from tools.footprint import main
from tools.plan.estimate import count_rows, read_plan, trained_parameters
from tools.plan.model_sizes import Parameters, count_parameters, meta_model, published_config
from tools.plan.needs import Plan, footprint
from tools.plan.work import step_flops

ALONE = Plan(gpus=1, stage=0, offload=False, half=False, recompute=False, reference=True, deepspeed=False)
ROOT = Path(__file__).parents[2]
CONTEXT = 600  # id of the image token


def make_config(vision_width, vision_layers, width, layers):
    vision = {"hidden_size": vision_width, "intermediate_size": 4 * vision_width, "num_hidden_layers": vision_layers}
    vision |= {"num_attention_heads": 4, "norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}
    language = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "vocab_size": 632}
    language |= {"model_type": "qwen2", "num_attention_heads": 8, "num_key_value_heads": 2}
    return InternVLChatConfig(
        vision_config={**vision, "image_size": 56, "patch_size": 14},
        llm_config={**language, "tie_word_embeddings": False},
        template="internvl2_5",
        ps_version="v2",
        force_image_size=56,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "tiles"), [((32, 1, 256, 8), 2), ((256, 8, 32, 1), 40)])
def test_activations_are_what_autograd_keeps(shape, tiles, dtype):
    """Once nearly all in the language model, once nearly all in the vision tower."""
    config = make_config(*shape)
    model = InternVLChatModel(config).to(dtype)
    model.img_context_token_id = CONTEXT
    use_shared_prefix(model)
    ids = [CONTEXT] * (model.num_image_token * tiles) + [1] * 40
    batch = {"pixel_values": torch.zeros(tiles, 3, 56, 56, dtype=torch.uint8), "image_flags": torch.ones(tiles).long()}
    for side, length in (("chosen", 300), ("rejected", 200)):
        batch[f"{side}_input_ids"] = torch.tensor([ids + [2] * length])
        batch[f"{side}_labels"] = torch.tensor([[-100] * len(ids) + [2] * length])
    batch = pack_batch(batch)
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer_logps(model.train(), batch)
    measured = sum(storage.nbytes() for storage in kept.values())
    weights = Weights(1, 1, 1, 3, stored=dtype.itemsize, half=dtype == torch.bfloat16)
    tokens = batch["packed"].input_ids.numel()
    towers = vision_tower(config, weights, tiles), language_tower(config, weights, tokens)
    assert sum(tower.held(0) for tower in towers) == pytest.approx(measured, rel=0.15)


@pytest.fixture
def training(golden, golden_folder, tmp_path):
    """(configuration, flags of two steps) of a model of 0.5 GB: policy, gradients, Adam's moments, reference."""
    config = make_config(512, 12, 768, 10)
    source = shutil.copytree(golden.ckpt, tmp_path / "source", ignore=shutil.ignore_patterns("*.safetensors"))
    InternVLChatModel(config).save_pretrained(source)
    data = shutil.copytree(golden_folder / "data", tmp_path / "data")
    flags = f"--model_name_or_path {source} --meta_path {data}/meta.json --output_dir {tmp_path}/run --max_steps 2"
    flags += " --force_image_size 56 --max_seq_length 512 --per_device_train_batch_size 2 --save_strategy no"
    flags += " --report_to none --dataloader_num_workers 0 --grad_checkpoint True"
    return config, flags.split()


def estimated(config, **changes):
    """Bytes of the estimate for `training`, with changes to the plan."""
    count = count_parameters(meta_model(config))
    assert count.total * 4 > 500e6
    plan = Plan(**{**vars(ALONE), "recompute": True, **changes})
    return footprint(config, count, count.total, plan, StepLoad(600, 10)).total


@pytest.mark.integration
def test_the_estimate_meets_the_peak_of_a_training(training):
    """Resident memory above the imports, in float32 in one process."""
    config, flags = training
    command = [sys.executable, "-m", "tests.peak_memory", "train", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    assert estimated(config) == pytest.approx(int(result.stdout.split("peak")[-1]), rel=0.15)


@pytest.mark.integration
def test_a_run_with_adapters_needs_base_adapters_and_activations(training):
    """No second model, no gradients and moments of the base: within 15 % of the sum."""
    config, flags = training
    flags = [*flags, "--use_llm_lora", "8", "--use_backbone_lora", "8", "--save_adapter_only", "True"]
    command = [sys.executable, "-m", "tests.peak_memory", "train", *flags]
    give_back = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc keeps what was freed otherwise, and it would count
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **give_back})
    assert result.returncode == 0, result.stderr[-3000:]
    count, (model_args, _, args) = count_parameters(meta_model(config)), parse_arguments(flags)
    trained = trained_parameters(meta_model(config), model_args, args)
    assert trained < 0.02 * count.total
    plan = Plan(**{**vars(ALONE), "recompute": True, "reference": False, "adapters": True})
    expected = footprint(config, count, trained, plan, StepLoad(600, 10)).total
    assert expected == pytest.approx(int(result.stdout.split("peak")[-1]), rel=0.15)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts the memory of a GPU, and there is none")
def test_the_estimate_meets_the_peak_of_a_gpu(training):
    """What the allocator gave out, under bfloat16 autocast."""
    config, flags = training
    torch.cuda.reset_peak_memory_stats()
    train([*flags, "--bf16", "True"])
    assert estimated(config, half=True) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)


def bytes_per_parameter(**changes):
    """(weights, gradients, optimizer, reference) of a model of a billion, in bytes per parameter of it."""
    count = Parameters(vision=10**8, projector=0, language=9 * 10**8)
    plan = Plan(**{**vars(ALONE), "half": True, "accumulates": True, **changes})  # so that all gradients stand
    need = footprint(published_config("InternVL2_5-1B"), count, count.total, plan, StepLoad(1000, 1))
    return tuple(value / count.total for value in (need.weights, need.gradients, need.optimizer, need.reference))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (4, 4, 8, 4)),
        ({"reference": False}, (4, 4, 8, 0)),
        ({"deepspeed": True, "stage": 1, "gpus": 8}, (2, 2, 1.5, 2)),
        ({"deepspeed": True, "stage": 2, "gpus": 8}, (2, 0.25, 1.5, 2)),
        ({"deepspeed": True, "stage": 3, "gpus": 8}, (0.25, 0.25, 1.5, 0.25)),
        ({"deepspeed": True, "stage": 3, "gpus": 8, "offload": True}, (0, 0.25, 0, 0)),
    ],
)
def test_model_states_are_those_of_the_zero_paper(changes, expected):
    """Mixed precision with Adam: 2 + 2 + 12 bytes (arXiv 1910.02054, section 3.1), split stage by stage."""
    assert bytes_per_parameter(**changes) == pytest.approx(expected)


def test_weights_of_4_bits_take_half_a_byte_and_their_constants():
    """Of a billion 0.8 in 4 bits: 0.2 x 2 + 0.8 x (1/2 + 1/64 + 1/4096) bytes, also of a reference model."""
    weights, _, _, reference = bytes_per_parameter(rounded=8 * 10**8, adapters=True)
    assert reference == pytest.approx(0.4 + 0.8 * 0.515869, rel=1e-6)
    assert weights == pytest.approx(reference + 2)  # adapters as many as the base, in this arithmetic


def test_4_bits_are_told_of_the_linear_layers_of_the_language_model(capsys):
    flags = [*FLAGS.format("8B", "none.json").split(), "--use_llm_lora", "64"]
    dry_run(["--", *flags, "--load_in_4bit", "True"])
    # 32 layers, each of query 4096, key and value 1024, output 4096, and three of the MLP, of 4096 inputs or outputs
    rounded = 32 * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14336)
    said = capsys.readouterr().out
    assert f"{rounded / 1e9:.2f} B of them in 4 bits" in said and "(weights 5.7, " in said
    with pytest.raises(ValueError, match="experts are none"):
        main(["--", *" ".join([*flags, "--load_in_4bit", "True"]).replace("2_5-8B", "3_5-30B-A3B").split()])


def test_flops_of_a_step_follow_the_weights():
    """In short rows attention is negligible: 2 per weight and token, 4 times with recomputing, once the reference."""
    config = published_config("InternVL2_5-8B")
    count = count_parameters(meta_model(config))
    flops = step_flops(count, config, StepLoad(10, 0), recompute=True, reference=True)
    assert flops == pytest.approx(5 * 2 * count.language * 10, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "active"),
    [("InternVL3_5-30B-A3B", 3.3e9), ("InternVL3_5-GPT-OSS-20B-A4B-Preview", 3.61e9 + 200028 * 2880)],
)
def test_of_the_experts_only_the_chosen_count(name, active):
    """Parameters of the language model that work on a token, by the model cards; gpt-oss's leaves the embedding out."""
    config = published_config(name)
    count = count_parameters(meta_model(config))
    flops = step_flops(count, config, StepLoad(10, 0), recompute=False, reference=True)
    assert flops / (4 * 2 * 10) == pytest.approx(active, rel=0.03)  # forward, twice backward, reference


@pytest.mark.parametrize("name", ["InternVL3_5-8B", "InternVL3_5-14B", "InternVL3_5-38B"])
def test_the_docs_say_of_long_rows_what_the_estimate_does(name):
    flags = (
        f"--model_name_or_path ckpt/{name} --meta_path meta.json --output_dir run --bf16 True --max_seq_length 32768"
    )
    flags += " --max_dynamic_patch 48 --deepspeed zero_stage3_config.json --reference cache --grad_checkpoint True"
    flags += " --per_device_train_batch_size 1 --offload_activations"
    config, need = published_config(name), []
    count = count_parameters(meta_model(config))
    for offload in ("False", "True"):
        args = parse_arguments([*flags.replace("--bf16 True", "").split(), offload])[2]
        plan = Plan(**{**vars(read_plan(16, args)), "half": True})  # a CPU need not have bfloat16
        total = footprint(config, count, count.total, plan, StepLoad(32768 + 1024, 49)).total
        need.append(f"{total / 1024**3:.1f} GiB")
    assert f"| of {name} | {need[0]} | {need[1]} |" in (ROOT / "docs" / "clusters.md").read_text()


FLAGS = "--model_name_or_path ckpt/InternVL2_5-{} --meta_path {} --output_dir run --bf16 True --grad_checkpoint True "
FLAGS += "--per_device_train_batch_size 1 --num_train_epochs 1"


def dry_run(words):
    """The estimate of a run whose checkpoint or data are not here, which is exit code 1."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1


def test_a_dry_run_states_what_is_needed_and_from_where(tmp_path, capsys):
    meta = tmp_path / "meta.json"
    entry = {"root": "", "annotation": "a.jsonl", "repeat_time": 0.5, "length": 1001}
    meta.write_text(json.dumps({"a": entry, "b": {**entry, "repeat_time": 2, "length": "500"}}))
    dry_run(["--gpus", "64", "--", *FLAGS.format("78B", meta).split(), "--deepspeed", "zero_stage3_config.json"])
    text = capsys.readouterr().out
    assert "parameters: 78.41 B" in text
    assert "batch: 64 pairs a step" in text
    assert "steps: 24 for 1,501 rows" in text
    assert "missing: ckpt/InternVL2_5-78B; hf download OpenGVLab/InternVL2_5-78B --local-dir" in text
    assert "missing: " + str(meta) not in text


def test_a_dry_run_says_what_has_to_be_computed_again(capsys):
    flags = FLAGS.format("2B", "none.json").split()
    dry_run(["--", *flags])
    assert "computed again: all 48 layers, but " not in capsys.readouterr().out  # 80 GiB are too few without
    dry_run(["--gpu_memory", "140", "--", *flags])
    assert "GiB would do without: --grad_checkpoint False saves" in capsys.readouterr().out
    said = r"memory per GPU: ([\d.]+) GiB .*computed again: (\d+) of 48 layers at the longest row, 0 at the usual one"
    found = []
    for memory in ("60", "80", "140"):
        dry_run(["--gpu_memory", memory, "--", *flags, "--grad_checkpoint", "auto"])
        found.append(re.search(said, capsys.readouterr().out, re.S).groups())
    layers = [int(number) for _, number in found]
    assert 48 > layers[0] > layers[1] > layers[2] == 0
    assert all(float(need) <= 0.92 * size for (need, _), size in zip(found, (60, 80, 140), strict=True))


def test_a_name_on_the_hub_is_not_missing(tmp_path, capsys, monkeypatch):
    """Training downloads it; its shapes are those of its config.json."""
    (tmp_path / "meta.json").write_text('{"one": {"root": ".", "annotation": "a.jsonl"}}')
    flags = ["--meta_path", str(tmp_path / "meta.json"), "--output_dir", "run"]
    monkeypatch.setattr("tools.plan.model_sizes.load_config", lambda name: published_config("InternVL2_5-2B"))
    main(["--gpu_memory", "1000", "--", "--model_name_or_path", "somebody/a-model-of-theirs", *flags])
    assert "parameters: 2.21 B" in capsys.readouterr().out


def test_what_cannot_fit_is_refused_with_the_numbers(capsys):
    with pytest.raises(SystemExit, match="does not fit into 80 GiB per GPU: take more GPUs, a higher ZeRO stage"):
        main(["--gpus", "8", "--", *FLAGS.format("26B", "none.json").split(), "--deepspeed", "zero_stage1_config.json"])
    assert "weights 47.5, gradients 47.5" in capsys.readouterr().out


def test_an_unknown_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shapes of InternVL9-1B are not known; known are InternVL2_5-1B"):
        main(["--", *f"--model_name_or_path {tmp_path}/InternVL9-1B --meta_path x --output_dir y".split()])


def test_a_checkpoint_that_is_here_counts_before_the_table(golden, capsys):
    dry_run(["--", *f"--model_name_or_path {golden.ckpt} --meta_path none.json --output_dir y".split()])
    total = count_parameters(meta_model(load_config(golden.ckpt))).total
    assert f"parameters: {total / 1e9:.2f} B" in capsys.readouterr().out


def test_offload_needs_memory_of_the_node(capsys):
    flags = [*FLAGS.format("38B", "none.json").split(), "--deepspeed", "zero_stage3_offload_config.json"]
    dry_run(["--gpus", "64", "--", *flags])
    assert "memory per node: 72" in capsys.readouterr().out  # (12 + 2 + 2) x 38.39e9 / 64 x 8 bytes = 71.5 GiB
    plan = read_plan(64, parse_arguments(flags)[2])
    assert plan.offload and plan.stage == 3 and plan.half


def test_rows_are_known_only_with_every_length(tmp_path):
    assert count_rows(str(tmp_path / "none.json")) is None
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"root": "", "annotation": "a.jsonl"}}))
    assert count_rows(str(tmp_path / "meta.json")) is None
