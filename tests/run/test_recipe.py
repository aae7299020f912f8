"""What a run is made of: one table says for each setting what happens when a later start changes it."""

import json
import shutil
from collections import Counter
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.run import recipe
from internvl_chat.run.recipe import changes, follow_flags, follow_schedule, planned_steps, weights_fingerprint
from internvl_chat.train_mpo import main
from tests.flags import as_flags


def test_the_table_says_of_every_setting_what_a_change_means():
    groups = (ModelArguments, DataArguments, MPOConfig)
    known = Counter({field.name for group in groups for field in fields(group)})
    tables = (recipe.REFUSED, recipe.IN_FORCE, recipe.BY_CONTENT, recipe.INDIFFERENT)
    said = Counter(name for table in tables for name in table)
    assert not [name for name, times in said.items() if times > 1]
    assert not known.keys() - said.keys()
    assert recipe.OF_THE_OPTIMIZER <= recipe.IN_FORCE


@pytest.fixture(scope="module")
def base(golden_folder, tmp_path_factory):
    """Function to the flags of a tiny run, and a folder with a run of two steps in `whole`."""
    home = tmp_path_factory.mktemp("recipe")
    data = shutil.copytree(golden_folder / "data", home / "data")
    settings = {
        "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
        "meta_path": data / "meta.json",
        "force_image_size": 56,
        "max_seq_length": 512,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "save_steps": 1,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "watchdog_seconds": 0,
        "dataloader_num_workers": 0,
    }

    def make(folder, **changed):
        return as_flags({**settings, "output_dir": folder, **changed})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(make(home / "whole"))
        yield make, home


@pytest.fixture
def stopped(base, tmp_path):
    """Function to the flags of a start that goes on from the first of two steps."""
    make, home = base
    shutil.copytree(home / "whole" / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    return lambda **changed: make(tmp_path / "run", **changed)


REFUSED = {
    "loss_type": ("sigmoid", "losses with weights was"),
    "sigmoid_loss_weight": (0.5, "losses with weights was .*0.8.*, is .*0.5"),
    "rpo_alpha": (0.5, "losses with weights was"),
    "beta": (0.5, "--beta was 0.1, is 0.5"),
    "label_smoothing": (0.1, "--label_smoothing was 0.0, is 0.1"),
    "nll_mode": ("pair", "--nll_mode was token, is pair"),
    "max_seq_length": (256, "--max_seq_length was 512, is 256"),
    "max_dynamic_patch": (6, "--max_dynamic_patch was 12, is 6"),
    "min_dynamic_patch": (2, "--min_dynamic_patch was 1, is 2"),
    "dynamic_image_size": (False, "--dynamic_image_size was True, is False"),
    "use_thumbnail": (False, "--use_thumbnail was True, is False"),
    "fast_resize": (True, "--fast_resize was False, is True"),
    "normalize_type": ("siglip", "--normalize_type was imagenet, is siglip"),
    "system_prompt": ("be short", "--system_prompt was None, is be short"),
    "freeze_backbone": (True, "--freeze_backbone was False, is True"),
    "freeze_llm": (True, "--freeze_llm was False, is True"),
    "freeze_mlp": (True, "--freeze_mlp was False, is True"),
    "use_llm_lora": (4, "--use_llm_lora was 0, is 4"),
    "optim": ("sgd", "--optim was adamw_torch(_fused)?, is sgd"),
    "lr_scheduler_type": ("cosine", "--lr_scheduler_type was linear, is cosine"),
    "bf16": (True, "--bf16 was False, is True"),
    "sync_ref_model": (True, "--sync_ref_model was False, is True"),
    "seed": (7, "--seed was 42, is 7"),
    "train_sampling_strategy": ("sequential", "--train_sampling_strategy was random, is sequential"),
    "group_prompts": (True, "--group_by was none, is prompt"),
    "tokens_per_device": (4096, r"limit of tokens \(--tokens_per_device\) was False, is True"),
    "gradient_accumulation_steps": (2, "pairs of a step was 1, is 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_run_is_refused_before_a_model_is_loaded(stopped, tmp_path, monkeypatch, name):
    monkeypatch.setattr("internvl_chat.training.load_model", None)
    value, words = REFUSED[name]
    with pytest.raises(ValueError, match=f"checkpoint-1 cannot be continued exactly: .*{words}"):
        main(stopped(**{name: value}))
    assert not (tmp_path / "run" / "settings.json").exists()


def changed_base(make, home, golden_folder, tmp_path):
    other = shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["mlp1.0.weight"] = weights["mlp1.0.weight"] + 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    return {"model_name_or_path": other}, r"base weights \(--model_name_or_path\) was"


def changed_row(make, home, golden_folder, tmp_path):
    data = shutil.copytree(home / "data", tmp_path / "data")
    path = data / "mmpr_en.jsonl"
    path.write_text(path.read_text().replace('"chosen": "', '"chosen": "No. ', 1))
    return {"meta_path": data / "meta.json"}, "content of .* was"


@pytest.mark.parametrize("change", [changed_base, changed_row])
def test_other_files_behind_the_flags_are_refused(base, stopped, golden_folder, tmp_path, change):
    changed, words = change(*base, golden_folder, tmp_path)
    with pytest.raises(ValueError, match=f"cannot be continued exactly: {words}"):
        main(stopped(**changed))


def test_the_same_files_elsewhere_and_the_same_losses_otherwise_spelled_go_on(base, stopped, golden_folder, tmp_path):
    _, home = base
    moved = shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "moved")
    data = shutil.copytree(home / "data", tmp_path / "data")
    main(stopped(model_name_or_path=moved, meta_path=data / "meta.json", sigmoid_loss_weight=0.8, rpo_alpha=1))
    assert same_weights(tmp_path / "run", home / "whole")


def same_weights(one, other):
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


IN_FORCE = {
    "learning_rate": 5e-3,
    "weight_decay": 100.0,
    "adam_beta1": 0.5,
    "adam_epsilon": 1.0,
    "max_grad_norm": 1e-3,
    "warmup_steps": 4.0,
    "max_steps": 3,
    "drop_path_rate": 0.9,
}


@pytest.mark.parametrize("name", IN_FORCE)
def test_what_may_change_takes_effect_and_is_said(base, stopped, tmp_path, caplog, name):
    """The weights of the second step are other ones, and settings.json tells since when."""
    make, home = base
    caplog.set_level("INFO")
    value = IN_FORCE[name]
    main(stopped(**{name: value}))
    weights = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    before = load_file(home / "whole" / "checkpoint-2" / "model.safetensors")
    assert any(not torch.equal(weights[key], before[key]) for key in weights)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    start = settings["starts"][-1]
    assert start["after_step"] == 1
    assert start["changed"].keys() == {f"--{name}"} and start["changed"][f"--{name}"]["is"] == value
    assert f"from step 1 on --{name} is {value}; it was" in caplog.text


def test_a_rate_in_force_is_the_rate_of_a_run_that_had_it(base, stopped, tmp_path):
    main(stopped(learning_rate=5e-3))
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert [entry["learning_rate"] for entry in history if "loss" in entry] == pytest.approx([1e-3, 2.5e-3])


@pytest.mark.parametrize("name", ["save_steps", "logging_steps", "save_total_limit", "grad_checkpoint"])
def test_what_makes_no_difference_leaves_the_weights_alone(base, stopped, tmp_path, name):
    _, home = base
    main(stopped(**{name: True if name == "grad_checkpoint" else 4}))
    assert same_weights(tmp_path / "run", home / "whole")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["starts"][-1]["changed"] == {}


def test_longer_runs_stretch_the_schedule(base, tmp_path):
    """The first step behind the old end has the rate of the new schedule, not the 0 of the old one's end."""
    make, home = base
    shutil.copytree(home / "whole", tmp_path / "run")
    main(make(tmp_path / "run", max_steps=4))
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in history if "loss" in entry]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])
    starts = json.loads((tmp_path / "run" / "settings.json").read_text())["starts"]
    assert [(start["after_step"], start["changed"]) for start in starts] == [
        (0, {}),
        (2, {"--max_steps": {"was": 2, "is": 4}}),
    ]


def test_an_older_checkpoint_without_a_recipe_goes_on_with_a_warning(base, stopped, tmp_path, caplog):
    folder = tmp_path / "run" / "checkpoint-1"
    flags = stopped(resume_from_checkpoint=folder)
    (folder / "checksums.json").unlink()
    state = json.loads((folder / "preference_state.json").read_text())
    del state["recipe"]
    (folder / "preference_state.json").write_text(json.dumps(state))
    main(flags)
    assert "is of an older version and does not say what its run is made of" in caplog.text
    assert same_weights(tmp_path / "run", base[1] / "whole")


def test_changes_are_of_what_both_name():
    assert changes({"a": 1, "b": [1], "gone": 2}, {"a": 1, "b": [2], "new": 3}) == {"b": ([1], [2])}


def test_sharded_optimizers_and_schedules_with_a_rate_of_their_own_refuse_another_rate(tmp_path):
    found = {"--learning_rate": (1, 2), "--max_steps": (1, 2)}
    args = MPOConfig(output_dir=str(tmp_path), report_to="none")
    assert recipe.refused(found, args) == {}
    args.deepspeed = "zero.json"
    assert list(recipe.refused(found, args)) == ["--learning_rate"]
    args = MPOConfig(output_dir=str(tmp_path), report_to="none")
    args.lr_scheduler_type = type(args.lr_scheduler_type)("reduce_lr_on_plateau")
    assert list(recipe.refused(found, args)) == ["--learning_rate"]


def test_a_fingerprint_is_of_names_sizes_and_content(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(10_000_000))
    first = weights_fingerprint(tmp_path)
    assert weights_fingerprint(tmp_path) == first
    path.write_bytes(b"1" + bytes(9_999_999))
    assert weights_fingerprint(tmp_path) != first
    path.write_bytes(bytes(10_000_001))
    assert weights_fingerprint(tmp_path) != first


def test_steps_are_planned_as_the_order_takes_them(tmp_path):
    args = MPOConfig(output_dir=str(tmp_path), report_to="none", per_device_train_batch_size=3, num_train_epochs=1.5)
    assert planned_steps(args, 20, 1) == 11  # 7 in an epoch, the last of 2 pairs
    assert planned_steps(args, 20, 2) == 6  # 4 in an epoch
    args.max_steps = 5
    assert planned_steps(args, 20, 1) == 5


def test_loaded_groups_follow_the_flags_and_the_schedule():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.5, betas=(0.1, 0.2))
    schedule = LambdaLR(optimizer, lambda step: 1 - step / 4)
    fresh = [dict(group, weight_decay=0.25, initial_lr=8.0) for group in optimizer.param_groups]
    optimizer.step()
    schedule.step()
    follow_flags(optimizer.param_groups, fresh)
    follow_schedule(schedule)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (6.0, 0.25, (0.1, 0.2))
    schedule.step()
    assert group["lr"] == 4.0
