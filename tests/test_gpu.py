"""On a GPU as on a CPU: gradients of golden checkpoints, attention at published sizes, every form of training.

    make gpu     all tests that want a GPU, these and those of other files

Without one the same code runs once on the CPU, small: a rented machine is no place to meet a typing error.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from internvl_chat.losses.pair import PreferenceLogps
from internvl_chat.model import load_config, load_model
from internvl_chat.packed import attention
from internvl_chat.packed.attention import shared_prefix_attention
from internvl_chat.packed.layout import Segment, build_layout, map_tensors
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import pack_batch
from internvl_chat.training import parse_arguments
from tests.flags import as_flags
from tests.test_fast_path import FAMILIES, Rows, run

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


@pytest.fixture
def in_groups(monkeypatch):
    """Function that switches the kernel of packed attention off."""
    return lambda: monkeypatch.setattr(attention, "varlen_refusal", lambda *_, **__: "groups are asked for")


def packed_logps(model, batch):
    """Log-probs of all pairs on the model's device."""
    packed = pack_batch(batch)
    packed = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in packed.items()}
    pack = packed["packed"]
    return PreferenceLogps.of_answers(pack.pair_answers, pack.lengths, answer_logps(model, packed))


def distance(found, true):
    """Relative distance of all gradients from the true ones, as one vector."""
    away = sum((found[name].float().cpu() - grad).square().sum() for name, grad in true.items())
    return (away / sum(grad.square().sum() for grad in true.values())).sqrt().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_float32_on_a_cpu(golden_folder, family, device, in_groups):
    """The largest part of float32's distance is cuDNN's TF32 in the patch embedding; bfloat16 has 8 bits."""
    config = load_config(golden_folder / "ckpt" / f"{family}-policy")
    config.vision_config.drop_path_rate = 0.0
    policy = load_model(golden_folder / "ckpt" / f"{family}-policy", config=config).train()
    reference = load_model(golden_folder / "ckpt" / family).eval()
    for model in (policy, reference):
        attention.use_shared_prefix(model)
    batch = Rows(golden_folder, family).batch(grouped=True)
    logps, loss, true = run(packed_logps, policy, reference, batch)
    policy.to(device), reference.to(device)
    exact_logps, exact_loss, exact = run(packed_logps, policy, reference, batch)
    assert exact_loss == pytest.approx(loss, abs=1e-2) and (exact_logps.cpu() - logps).abs().max() < 0.1
    assert distance(exact, true) < 5e-3
    with torch.autocast(device, dtype=torch.bfloat16):
        half = distance(run(packed_logps, policy, reference, batch)[2], true)
        in_groups()
        grouped = distance(run(packed_logps, policy, reference, batch)[2], true)
    assert half < 5e-2 and half < 2 * grouped + 1e-3


SHAPES = {"1B": (14, 2, 64), "2B": (16, 8, 128), "8B": (32, 8, 128), "38B": (40, 8, 128), "GPT-OSS": (64, 8, 64)}
ROWS = {"usual": (1855, (250, 400)), "long": (3391, (4800, 1024)), "16 answers": (1855, (250,) * 16)}


@pytest.mark.parametrize(
    ("heads", "row"),
    [pytest.param((4, 2, 64), (40, (5, 9)), id="small")]
    + [pytest.param(SHAPES[size], ROWS[row], marks=GPU, id=f"{size}-{row}") for size in SHAPES for row in ROWS],
)
def test_the_kernel_agrees_with_groups_at_published_sizes(heads, row, in_groups):
    """Outputs and gradients in bfloat16, by the kernel where there is a GPU, against float32; GPT-OSS has sinks."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prefix, answers = row
    segments = [Segment(0, prefix)]
    for length in answers:
        segments.append(Segment(segments[-1].start + segments[-1].length, length, 0, prefix))
    layout = map_tensors(build_layout(segments), lambda tensor: tensor.to(device))
    torch.manual_seed(0)
    query_heads, kv_heads, width = heads
    states = [torch.randn(1, n, prefix + sum(answers), width, device=device) for n in (query_heads, kv_heads, kv_heads)]
    sinks = {"s_aux": torch.randn(query_heads, device=device)} if query_heads == 64 else {}

    def attended(dtype):
        leaves = [part.to(dtype).requires_grad_() for part in states]
        output = shared_prefix_attention(torch.nn.Module(), *leaves, None, shared_prefix=layout, **sinks)[0].float()
        return [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]

    if device.type == "cuda":
        assert attention.varlen_refusal(device, torch.bfloat16, with_sinks=bool(sinks)) == ""
    half = attended(torch.bfloat16)
    in_groups()
    for found, true in zip(half, attended(torch.float32), strict=True):
        assert (found.float() - true).norm() < 2e-2 * true.norm()


FORMS = {
    "float32": {},
    "bfloat16": {"bf16": True},
    "cache": {"bf16": True, "reference": "cache", "dataloader_num_workers": 2},
    "checkpointed": {"bf16": True, "grad_checkpoint": True},
    "evaluated": {"bf16": True, "evaluation_strategy": "steps", "eval_steps": 2},
    "lora": {"bf16": True, "use_llm_lora": 8, "use_backbone_lora": 8},
    "zero_1": {"bf16": True, "deepspeed": "zero_stage1_config.json"},
    "zero_3": {"bf16": True, "deepspeed": "zero_stage3_config.json"},
}


@pytest.fixture
def flags(golden, golden_folder, tmp_path):
    """Function from the name of a run of four steps, and changed settings, to its flags."""
    data = shutil.copytree(golden_folder / "data", tmp_path / "data")

    def words(name, **changes):
        settings = {"model_name_or_path": golden.ckpt, "meta_path": data / "meta.json", "output_dir": tmp_path / name}
        settings |= {"force_image_size": 56, "max_seq_length": 512, "per_device_train_batch_size": 2, "max_steps": 4}
        settings |= {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "save_steps": 2, "logging_steps": 1}
        settings |= {"report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 0}
        settings |= {"eval_meta_path": data / "meta.json"} if "eval_steps" in changes else {}
        return as_flags(settings | changes)

    return words


@pytest.fixture
def losses(flags, tmp_path):
    """Function from a run to the losses of its steps, in a process of its own, on the GPU unless that is hidden."""

    def trained(name, *, hidden=False, **changes):
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": ""} if hidden else {}
        command = [sys.executable, "-m", "internvl_chat.train_mpo", *flags(name, **changes)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry]

    return trained


@pytest.mark.parametrize("form", FORMS)
def test_the_flags_of_every_form_are_taken(flags, form):
    assert parse_arguments(flags("run", **FORMS[form]))[2].max_steps == 4


@pytest.mark.parametrize("form", [pytest.param(form, marks=GPU) for form in FORMS])
def test_every_form_of_training_runs_on_a_gpu(losses, form):
    """Before the first step all have the loss of float32 on a CPU, which follows it to the end in that format alone."""
    true, found = losses("cpu", hidden=True), losses("gpu", **FORMS[form])
    assert len(found) == 4 and found[0] == pytest.approx(true[0], abs=0.05)
    assert form != "float32" or found == pytest.approx(true, abs=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_resumed_run_equals_one_that_was_never_stopped(losses, tmp_path):
    settings = {"bf16": True, "full_determinism": True}
    whole = losses("whole", **settings)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    assert losses("resumed", **settings) == whole
