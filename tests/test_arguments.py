"""Flags: the published command line, older names, and what is refused."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig, resolve_deepspeed_config
from internvl_chat.checkpoint.files import checksums, publish
from internvl_chat.training import find_resume_point, parse_arguments, wants_deepspeed


def config(tmp_path, **settings):
    return MPOConfig(output_dir=str(tmp_path), report_to="none", **settings)


def checkpoints_activations(args):
    """The flag under the name that the installed transformers gives it."""
    return getattr(args, "activation_checkpointing", args.gradient_checkpointing)


def test_a_process_that_sees_several_gpus_uses_one(tmp_path, monkeypatch):
    """Else the Trainer wraps the policy in DataParallel, which deals the tiles of one row out to the GPUs."""
    args = config(tmp_path, use_cpu=True, per_device_train_batch_size=3)
    assert args.device.type == "cpu" and args.n_gpu == 0
    monkeypatch.setattr(args, "_n_gpu", 2)
    assert (args.n_gpu, args.train_batch_size, args.parallel_mode.value) == (1, 3, "not_parallel")


def test_the_original_command_line_parses_word_for_word(tmp_path, monkeypatch, caplog, original_command):
    words = shlex.split(original_command.format(output_dir=tmp_path))
    assert wants_deepspeed(words)
    monkeypatch.setattr(MPOConfig, "__post_init__", MPOConfig._apply_older_names)  # DeepSpeed itself is tested apart
    model_args, data_args, mpo_args = parse_arguments(words)
    assert model_args.drop_path_rate == 0.1
    assert data_args.max_seq_length == 8192
    assert mpo_args.eval_strategy == "no"
    assert mpo_args.warmup_steps == 0.03
    assert checkpoints_activations(mpo_args) is True
    assert mpo_args.overwrite_output_dir is True
    assert mpo_args.loss_mixture().names == ("sigmoid", "bco_pair")
    assert mpo_args.loss_mixture().weights == (0.8, 0.2)
    assert mpo_args.loss_mixture().nll_weight == 1
    assert "--use_liger has no effect" in caplog.text


def test_warmup_ratio_is_a_share_of_all_steps(tmp_path):
    assert config(tmp_path, warmup_ratio=0.03).get_warmup_steps(1000) == 30


def test_older_names_do_not_stay_behind(tmp_path):
    args = config(tmp_path, evaluation_strategy="steps", eval_steps=5, group_by_length=True, grad_checkpoint=False)
    assert args.eval_strategy == "steps"
    assert args.evaluation_strategy is None
    assert args.train_sampling_strategy == "group_by_length"
    assert checkpoints_activations(args) is False


@pytest.mark.parametrize(
    ("settings", "names", "weights", "nll"),
    [
        ({}, ("sigmoid", "bco_pair"), (0.8, 0.2), 1.0),
        ({"loss_type": "sigmoid"}, ("sigmoid",), (1.0,), 0.0),
        ({"loss_type": "sigmoid+"}, ("sigmoid",), (1.0,), 1.0),
        ({"loss_type": "hinge,ipo", "loss_weights": "0.5,2"}, ("hinge", "ipo"), (0.5, 2.0), 0.0),
        ({"loss_type": "sft", "sigmoid_loss_weight": 0.8, "rpo_alpha": 1}, (), (), 1.0),
        ({"loss_type": "ipo", "bco_pair_loss_weight": 0.2, "rpo_alpha": 0.3}, ("ipo",), (1.0,), 0.3),
    ],
)
def test_losses_and_weights(tmp_path, settings, names, weights, nll):
    mixture = config(tmp_path, **settings).loss_mixture()
    assert (mixture.names, mixture.weights, mixture.nll_weight) == (names, weights, nll)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "dpoo"}, "unknown loss"),
        ({"loss_type": "hinge,ipo", "loss_weights": "1"}, "does not match"),
        ({"beta": 0.0}, "--beta 0.0"),
        ({"label_smoothing": 0.5}, "--label_smoothing 0.5"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
        ({"seed": 2**32}, "--seed 4294967296 must be at least 0 and below"),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size 0 must be at least 1"),
        ({"per_device_eval_batch_size": -2}, "--per_device_eval_batch_size -2 must be"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps 0 must be"),
        ({"reference": "cash"}, "--reference cash is unknown"),
        ({"reference": "cache", "sync_ref_model": True}, "stale at once"),
    ],
)
def test_bad_training_values_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_bad_model_and_data_values_are_refused():
    with pytest.raises(ValueError, match="--model_name_or_path is empty"):
        ModelArguments()
    with pytest.raises(ValueError, match="--drop_path_rate 1.5"):
        ModelArguments(model_name_or_path="x", drop_path_rate=1.5)
    with pytest.raises(ValueError, match="--use_llm_lora -1: ranks are at least 1, or 0"):
        ModelArguments(model_name_or_path="x", use_llm_lora=-1)
    with pytest.raises(ValueError, match="--meta_path is empty"):
        DataArguments()
    with pytest.raises(ValueError, match="--normalize_type siglop is unknown"):
        DataArguments(meta_path="x", normalize_type="siglop")
    with pytest.raises(ValueError, match="--max_dynamic_patch 2: must be 1 <= min <= max"):
        DataArguments(meta_path="x", min_dynamic_patch=3, max_dynamic_patch=2)


def test_a_bare_deepspeed_name_means_ours_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(resolve_deepspeed_config("zero_stage1_config.json"))
    assert json.loads(path.read_text())["zero_optimization"]["stage"] == 1
    Path("own.json").write_text("{}")
    assert resolve_deepspeed_config("own.json") == "own.json"
    with pytest.raises(FileNotFoundError, match="zero_stage9.json: no such file, .*zero_stage1_config.json"):
        resolve_deepspeed_config("zero_stage9.json")


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_one_file_holds_all_flags(tmp_path, suffix):
    settings = {
        "model_name_or_path": "ckpt/x",
        "meta_path": "meta.json",
        "output_dir": str(tmp_path),
        "warmup_ratio": 0.1,
        "rpo_alpha": 0.5,
        "report_to": "none",
    }
    path = tmp_path / f"run{suffix}"
    path.write_text(json.dumps(settings) if suffix == ".json" else yaml.safe_dump(settings))
    assert not wants_deepspeed([str(path)])
    model_args, _, mpo_args = parse_arguments([str(path)])
    assert model_args.model_name_or_path == "ckpt/x"
    assert mpo_args.warmup_steps == 0.1
    assert mpo_args.loss_mixture().nll_weight == 0.5


def test_a_run_goes_on_from_its_last_checkpoint_unless_overwritten(tmp_path):
    for step in (2, 10):
        fresh = tmp_path / "saving" / f"checkpoint-{step}"
        fresh.mkdir(parents=True)
        publish(fresh, tmp_path / fresh.name, checksums(fresh))
    (tmp_path / "checkpoint-12").mkdir()  # killed while it was written
    assert find_resume_point(config(tmp_path)) == str(tmp_path / "checkpoint-10")
    named = str(tmp_path / "checkpoint-2")
    assert find_resume_point(config(tmp_path, resume_from_checkpoint=named)) == named
    with pytest.raises(FileNotFoundError, match="--resume_from_checkpoint other: no such folder"):
        find_resume_point(config(tmp_path, resume_from_checkpoint="other"))
    assert find_resume_point(config(tmp_path, overwrite_output_dir=True)) is None
    assert find_resume_point(config(tmp_path / "new")) is None


@pytest.mark.parametrize(("word", "shards"), [("True", True), ("False", False)])
def test_fsdp_is_a_switch_and_its_checkpoints_are_whole(tmp_path, word, shards):
    args = config(tmp_path, bf16=False, fsdp=word)
    assert bool(args.fsdp) is shards and (args.fsdp_plugin_args is not None) is shards
    with pytest.raises(ValueError, match="state_dict_type must be FULL_STATE_DICT"):
        config(tmp_path, bf16=False, fsdp="True", fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"})
