"""ZeRO-1, 2, 3, 3 with offload, and none: two processes over gloo train as one does, and save what it saves."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.arguments import DEEPSPEED_FOLDER
from internvl_chat.model import load_model
from tests.integration.ranks import train

pytestmark = pytest.mark.integration

LAUNCHERS = DEEPSPEED_FOLDER.parent / "internvl2.5_mpo" / "preference_optimization"

# A bias of keys hardly moves the loss (in InternViT not at all), so Adam makes steps of what rounding leaves of its
# gradient: up to the learning rate, here 10 steps of 1e-4, whatever its size.
KEY_BIAS = re.compile(r"(qkv|k_proj)\.bias$")
STAGES = (None, *sorted(path.name for path in DEEPSPEED_FOLDER.glob("*.json")))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_and_saves_as_a_single_process(stage, tiny_flags, losses_of, single_process, tmp_path):
    choice = {} if stage is None else {"deepspeed": config_without_compiler(stage, tmp_path)}
    train(tiny_flags(tmp_path / "run", **choice), world=2, log=tmp_path / "log")
    expected, losses = losses_of(single_process), losses_of(tmp_path / "run")
    assert len(losses) == 10
    assert losses == pytest.approx(expected, abs=1e-4)
    for folder in ("checkpoint-5", "."):  # every saved checkpoint is whole, not only the last
        before = load_file(single_process / folder / "model.safetensors")
        after = load_file(tmp_path / "run" / folder / "model.safetensors")
        assert before.keys() == after.keys()
        away = {name: (before[name] - after[name]).abs().max().item() for name in before}
        assert not {name: far for name, far in away.items() if far > (1e-3 if KEY_BIAS.search(name) else 1e-6)}
    assert torch.isfinite(load_model(tmp_path / "run").mlp1[1].weight).all()


def config_without_compiler(stage, folder):
    """Our configuration as it is, but offloaded states are stepped by torch: DeepSpeed's own Adam compiles first."""
    config = json.loads((DEEPSPEED_FOLDER / stage).read_text())
    path = folder / stage
    path.write_text(json.dumps({**config, "zero_force_ds_cpu_optimizer": False}))
    return path


def test_a_launcher_trains_with_torchrun_where_there_is_no_slurm(tiny_flags, losses_of, single_process, tmp_path):
    script = LAUNCHERS / "internvl2_5_8b_internlm2_5_7b_dynamic_res_mpo.sh"
    flags = tiny_flags(tmp_path / "run", drop_path_rate=0, warmup_ratio=0, weight_decay=0)
    settings = {
        "LAUNCHER": "torchrun",
        "GPUS": "2",
        "BATCH_SIZE": "2",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        ["sh", script, *flags], env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(single_process), abs=1e-4)
    assert "'loss'" in (tmp_path / "run" / "train_mpo.log").read_text()
