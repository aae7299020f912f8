"""ZeRO-1, 2, 3, 3 with offload, and none: two processes over gloo train as one does, and save what it saves."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, dynamic_module_utils

from internvl_chat.arguments import DEEPSPEED_FOLDER
from internvl_chat.train_mpo import main
from tests.integration.ranks import train
from tests.tools.test_convert import build

pytestmark = pytest.mark.integration

LAUNCHERS = DEEPSPEED_FOLDER.parent / "internvl2.5_mpo" / "preference_optimization"

STAGES = (None, *sorted(path.name for path in DEEPSPEED_FOLDER.glob("*.json")))


@pytest.fixture(scope="module")
def load_elsewhere(tmp_path_factory):
    """Function from a folder to what transformers loads by the files beside the weights: the model and what lacked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield lambda folder: AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)


def largest_difference(before, after):
    """Over all weights of the folders of two checkpoints, which have the same names."""
    before, after = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert before.keys() == after.keys()
    return max((before[name] - after[name]).abs().max().item() for name in before)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_and_saves_as_a_single_process(
    stage, tiny_flags, losses_of, single_process, load_elsewhere, tmp_path
):
    run, choice = tmp_path / "run", {} if stage is None else {"deepspeed": config_without_compiler(stage, tmp_path)}
    train(tiny_flags(run, **choice), world=2, log=tmp_path / "log")
    expected, losses = losses_of(single_process), losses_of(run)
    assert len(losses) == 10
    assert losses == pytest.approx(expected, abs=1e-5)
    for folder in ("checkpoint-5", "."):  # every saved checkpoint is whole, not only the last
        assert largest_difference(single_process / folder, run / folder) <= 1e-6
    model, info = load_elsewhere(run)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    saved = load_file(run / "model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())


def test_adapters_train_under_zero_3_as_in_a_single_process(tiny_flags, losses_of, tmp_path):
    settings = {"use_llm_lora": 4, "use_backbone_lora": 4, "grad_checkpoint": True, "max_steps": 4, "save_steps": 2}
    main(tiny_flags(tmp_path / "one", per_device_train_batch_size=2, **settings))
    flags = tiny_flags(tmp_path / "two", deepspeed="zero_stage3_config.json", **settings)
    train([*flags, "--max_steps", "2"], world=2, log=tmp_path / "log")
    train(flags, world=2, log=tmp_path / "log")  # goes on
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)
    assert largest_difference(tmp_path / "one", tmp_path / "two") <= 1e-6


@pytest.mark.parametrize(
    ("loss_type", "changes"),
    [
        ("sigmoid,bco_pair", {}),
        # Without the delta, which counts an observation per rank that has pairs.
        ("sigmoid+", {"image": "cut.png"}),
    ],
    ids=["text", "no usable row"],
)
def test_a_rank_without_images_keeps_pace_under_zero_3(
    loss_type, changes, tiny_flags, golden_folder, losses_of, tmp_path
):
    """Rank 0 gets the first of each two rows, rank 1 the second: text alone, or one row that has no use."""
    data = golden_folder / "data"
    images = shutil.copytree(data / "images", tmp_path / "images")
    rows = {row["id"]: row for row in map(json.loads, (data / "mmpr_en.jsonl").read_text().splitlines())}
    (images / "cut.png").write_bytes((images / rows["en-1"]["image"]).read_bytes()[:-400])
    text = {**rows["en-3"], **changes}
    if changes:
        text["question"] = f"<image>\n{text['question']}"
    meta = {}
    for number, row in enumerate([rows["en-1"], text, text, rows["en-5"], rows["en-3"], text, rows["en-0"], text]):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row))  # a file is shuffled, so each holds one row
        meta[f"{number}"] = {"root": str(images), "annotation": str(tmp_path / f"{number}.jsonl")}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    settings = {"meta_path": tmp_path / "meta.json", "train_sampling_strategy": "sequential", "max_steps": 4}
    settings |= {"loss_type": loss_type, "max_skipped_share": 1}
    main(tiny_flags(tmp_path / "one", per_device_train_batch_size=2, **settings))
    settings["grad_checkpoint"] = "auto"  # chosen alike: ranks gather the weights of a layer together
    flags = tiny_flags(tmp_path / "two", deepspeed="zero_stage3_config.json", **settings)
    train(flags, world=2, log=tmp_path / "log")
    assert "of 5 layers are computed again, for the longest row" in (tmp_path / "log").read_text()
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)
    assert largest_difference(tmp_path / "one", tmp_path / "two") <= 1e-6
    skipped = tmp_path / "two" / "skipped.jsonl"
    assert (len(skipped.read_text().splitlines()) if skipped.is_file() else 0) == (4 if changes else 0)


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
    assert ": loss " in (tmp_path / "run" / "train_mpo.log").read_text()


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_experts_train_under_zero_3_as_in_a_single_process(family, tiny_flags, losses_of, golden_folder, tmp_path):
    source = build(tmp_path / "source", golden_folder / "ckpt" / "tiny-qwen2", family)
    settings = {"model_name_or_path": source, "max_steps": 3, "save_strategy": "no"}
    main(tiny_flags(tmp_path / "one", per_device_train_batch_size=2, **settings))
    train(tiny_flags(tmp_path / "two", deepspeed="zero_stage3_config.json", **settings), world=2, log=tmp_path / "log")
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)
    assert largest_difference(tmp_path / "one", tmp_path / "two") <= 1e-6
