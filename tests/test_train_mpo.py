"""The entry point on the golden data: a run, its folder, its resume, and what it says to bad input."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.checkpoint.lock import FolderInUse, locked
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.train_mpo import main
from tests.flags import as_flags


@pytest.fixture
def data(golden_folder, tmp_path, monkeypatch):
    """A copy of the golden data, so that bad rows can be put in; line indexes stay out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(golden_folder / "data", tmp_path / "data")


@pytest.fixture
def flags(golden, data, tmp_path):
    def make(**changes):
        settings = {
            "model_name_or_path": golden.ckpt,
            "meta_path": data / "meta.json",
            "output_dir": tmp_path / "run",
            "force_image_size": 56,
            "max_seq_length": 512,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "max_steps": 4,
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
            **changes,
        }
        return as_flags(settings)

    return make


def log_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def test_a_run_trains_evaluates_and_leaves_a_checkpoint_that_loads(flags, data, tmp_path):
    main(flags(eval_meta_path=data / "meta.json", evaluation_strategy="steps", eval_steps=4))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        load_model(folder)
        assert load_tokenizer(folder).encode("abc")
    evaluation = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert evaluation["eval_rewards/accuracies"] > 0.5
    assert {"eval_losses/sigmoid", "eval_losses/bco_pair", "eval_nll_loss", "eval_delta"} <= evaluation.keys()
    assert not (tmp_path / "run" / "skipped.jsonl").exists()
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["training"]["loss_type"] == "sigmoid,bco_pair" and settings["data"]["meta_path"].endswith(".json")
    assert {part["drawn"] for part in settings["mixture"].values()} and settings["model"]["drop_path_rate"] >= 0
    [start] = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert list(start["seconds"])[-3:] == ["training", "export", "evaluation"]


def test_a_resumed_run_equals_one_that_was_never_stopped(flags, tmp_path):
    settings = {"drop_path_rate": 0.2, "lr_scheduler_type": "constant"}
    main(flags(output_dir=tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    main(flags(output_dir=tmp_path / "resumed", **settings))
    assert log_of(tmp_path / "resumed") == log_of(tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_second_run_in_one_folder_ends_before_it_loads_a_thing(flags, tmp_path, monkeypatch):
    monkeypatch.setattr("internvl_chat.training.load_model", None)
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(FolderInUse, match=f"in use by the run of process {os.getpid()} on"):
        main(flags(overwrite_output_dir=True))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.lock"]


def test_frozen_parts_stay_as_they_were(flags, golden, tmp_path):
    main(flags(freeze_backbone=True, unfreeze_vit_layers=1, freeze_mlp=True, max_steps=1))
    before, after = load_file(f"{golden.ckpt}/model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("language_model.") for name in changed)
    vision = {name for name in changed if name.startswith("vision_model.")}
    assert vision and all(name.startswith("vision_model.encoder.layers.2.") for name in vision)
    assert not [name for name in changed if name.startswith("mlp1.")]


def test_the_normalisation_that_a_flag_names_reaches_the_vision_tower(flags, tmp_path):
    for name in ("imagenet", "siglip"):
        main(flags(output_dir=tmp_path / name, normalize_type=name, loss_type="sft", max_steps=1, save_strategy="no"))
    assert log_of(tmp_path / "imagenet") != log_of(tmp_path / "siglip")


@pytest.mark.parametrize("loss_type", ["sft", "orpo", "sigmoid", "ipo,sppo_hard", "aot+"])
def test_other_losses_train(flags, tmp_path, loss_type):
    main(flags(loss_type=loss_type, max_steps=3, save_strategy="no"))
    losses = log_of(tmp_path / "run")
    assert losses[3] != losses[1]


def test_tr_dpo_moves_the_reference(flags, tmp_path):
    main(
        flags(loss_type="sigmoid", sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=1.0, max_steps=3)
    )
    # the reference is the policy again after each step, so every loss is that of no margin
    assert log_of(tmp_path / "run") == pytest.approx(dict.fromkeys((1, 2, 3), 0.6931), abs=2e-4)


@pytest.mark.parametrize("cache", ["model", "cache"])
def test_grouped_prompts_train_every_pair_and_resume(flags, data, tmp_path, cache):
    rows = [json.loads(line) for line in (data / "mmpr_en.jsonl").read_text().splitlines()]
    more = [{**row, "rejected": f"{row['rejected']} {n}"} for row in rows for n in range(3)]
    (data / "mmpr_en.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, *more]))
    settings = {"group_prompts": True, "max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 8}
    settings |= {"reference": cache, "save_steps": 4, "lr_scheduler_type": "constant"}
    main(flags(output_dir=tmp_path / "whole", **settings))
    losses = log_of(tmp_path / "whole")
    assert len(losses) == 8  # 62 pairs in steps of 8
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    main(flags(output_dir=tmp_path / "resumed", **settings))
    assert log_of(tmp_path / "resumed") == losses


def test_a_cached_reference_gives_the_run_of_a_second_model(flags, tmp_path, monkeypatch):
    settings = {"max_steps": 3, "save_strategy": "no"}
    main(flags(output_dir=tmp_path / "model", **settings))
    main(flags(output_dir=tmp_path / "first", reference="cache", **settings))
    expected = log_of(tmp_path / "model")
    assert log_of(tmp_path / "first") == pytest.approx(expected, abs=2e-5)
    loaded = []
    monkeypatch.setattr("internvl_chat.training.load_model", lambda *a, **k: loaded.append(a) or load_model(*a, **k))
    main(flags(output_dir=tmp_path / "second", reference="cache", beta=0.2, **settings))  # a sweep reads the same cache
    assert len(loaded) == 1
    assert log_of(tmp_path / "second")[3] != expected[3]


def test_a_cache_filled_under_other_settings_is_not_used(flags, tmp_path):
    """Rewards begin at 0, as the policy is the reference: with log-probs of another normalisation they do not."""
    settings = {"max_steps": 1, "save_strategy": "no", "reference": "cache"}
    main(flags(output_dir=tmp_path / "first", normalize_type="clip", **settings))
    main(flags(output_dir=tmp_path / "second", **settings))
    [first, *_] = json.loads((tmp_path / "second" / "trainer_state.json").read_text())["log_history"]
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)


def test_a_changed_picture_is_noticed_and_then_computed(flags, data, tmp_path):
    settings = {"reference": "cache", "max_steps": -1, "num_train_epochs": 1, "save_strategy": "no"}
    main(flags(**settings))
    shutil.copyfile(data / "images" / "tall_3to4.png", data / "images" / "square_small.png")
    with pytest.raises(LookupError, match=r"reference log-probs of rows \['mmpr_en_mix:|'mmpr_en_mix:1'"):
        main(flags(overwrite_output_dir=True, **settings))
    main(flags(overwrite_output_dir=True, **settings))


def test_rows_that_cannot_be_used_are_skipped_and_written_down(flags, data, tmp_path):
    rows = (data / "mmpr_en.jsonl").read_text().splitlines()
    good = json.loads(rows[0])
    bad = [
        {**good, "image": "missing.png"},
        {name: value for name, value in good.items() if name != "rejected"},
        {**good, "question": "<image>\n<image>\nTwo placeholders, one picture."},
        {**good, "chosen": ""},
    ]
    lines = [*rows, *(json.dumps(row) for row in bad), '{"image": "a.png",}']
    (data / "mmpr_en.jsonl").write_text("\n".join(lines) + "\n")
    main(flags(max_steps=-1, num_train_epochs=1, save_strategy="no", max_skipped_share=0.5))
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert sorted({row["line"] for row in skipped}) == [8, 9, 10, 11, 12]
    assert len(skipped) == 10  # repeat_time is 2
    reasons = {row["line"]: row["reason"] for row in skipped}
    assert "missing.png" in reasons[8]
    assert "'rejected' is missing" in reasons[9]
    assert "2" in reasons[10] and "1" in reasons[10]
    assert "trailing comma" in reasons[12]
    results = json.loads((tmp_path / "run" / "train_results.json").read_text())
    assert results["skipped_rows"] == 10


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_name_or_path": "ckpt/none/here"}, FileNotFoundError, "no such checkpoint folder"),
        ({"meta_path": "none/meta.json"}, FileNotFoundError, "none/meta.json"),
        ({"conv_style": "internvl9"}, ValueError, "internvl9"),
        ({"loss_type": "mpo!"}, ValueError, "unknown loss"),
        ({"vision_select_layer": -9}, ValueError, "--vision_select_layer -9: the vision tower of .* has 3 layers"),
        ({"vision_select_layer": 4}, ValueError, "so -4 to 3"),
    ],
)
def test_bad_input_ends_before_the_first_step(flags, changes, error, message):
    with pytest.raises(error, match=message):
        main(flags(**changes))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotation": "absent.jsonl"}, "absent.jsonl"),
        ({"repeat_time": -1}, "repeat_time"),
    ],
)
def test_a_bad_meta_entry_is_named(flags, data, entry, message):
    meta = json.loads((data / "meta.json").read_text())
    meta["mmpr_en_mix"].update(entry)
    (data / "meta.json").write_text(json.dumps(meta))
    with pytest.raises((ValueError, FileNotFoundError), match=f"mmpr_en_mix.*{message}"):
        main(flags())


@pytest.mark.integration
def test_the_original_command_line_trains_word_for_word(golden, data, tmp_path, original_command):
    """Under DeepSpeed ZeRO-1 in bfloat16, as published; only paths, the tile size and the checkpoint differ."""
    line = original_command.format(output_dir=tmp_path / "run")
    line = line.replace("ckpt/InternVL2_5-8B", golden.ckpt.replace("qwen2", "internlm2"))
    line = line.replace("MMPR-v1.1/meta.json", str(data / "meta.json")).replace("image_size 448", "image_size 56")
    command = f"{sys.executable} -m internvl_chat.train_mpo {' '.join(line.split())}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    losses = log_of(tmp_path / "run")
    assert len(losses) == 20 and all(0 < loss < 20 for loss in losses.values())
    source = load_file(f"{golden.ckpt.replace('qwen2', 'internlm2')}/model.safetensors")
    trained = load_file(tmp_path / "run" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in trained.items()} == {name: t.dtype for name, t in source.items()}
    assert any((tmp_path / "run" / "runs").rglob("events.out.tfevents.*"))
