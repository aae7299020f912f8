"""Second starts of one run: from whole checkpoints, to no effect where nothing is left; the best weights at its end."""

import json

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.run.starts import check_complete
from internvl_chat.train_mpo import main
from tests.flags import as_flags


@pytest.fixture
def flags(golden_folder, tmp_path, monkeypatch):
    """Function to the flags of a tiny run of two steps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {
        "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
        "meta_path": golden_folder / "data" / "meta.json",
        "output_dir": tmp_path / "run",
        "force_image_size": 56,
        "max_seq_length": 512,
        "per_device_train_batch_size": 2,
        "learning_rate": 3e-3,
        "max_steps": 2,
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "watchdog_seconds": 0,
        "dataloader_num_workers": 0,
    }
    return lambda **changed: as_flags({**settings, **changed})


def content(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.lock"
    }


def test_a_finished_run_started_again_changes_nothing_and_more_steps_go_on(flags, golden_folder, tmp_path, caplog):
    evaluated = {"eval_meta_path": golden_folder / "data" / "meta.json"}
    main(flags(**evaluated))
    before = content(tmp_path / "run")
    assert {"train_results.json", "eval_results.json", "settings.json", "log.jsonl"} <= before.keys()
    caplog.set_level("INFO")
    for again in ({}, {"logging_steps": 7}, {"max_steps": 1}):
        caplog.clear()
        main(flags(**evaluated, **again))
        assert "this run is finished, at step 2; nothing is changed. More --num_train_epochs" in caplog.text
        assert content(tmp_path / "run") == before
    with pytest.raises(ValueError, match="--beta was 0.1, is 0.2"):
        main(flags(**evaluated, beta=0.2))
    assert content(tmp_path / "run") == before
    main(flags(max_steps=3))
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 3


@pytest.mark.parametrize("lost", ["model.safetensors", "train_results.json", "trainer_state.json"])
def test_a_run_killed_in_its_export_is_not_finished(flags, tmp_path, lost):
    main(flags())
    (tmp_path / "run" / lost).unlink()
    main(flags())
    assert (tmp_path / "run" / lost).is_file()


@pytest.mark.parametrize("adapters", [{}, {"use_llm_lora": 2}])
def test_a_checkpoint_of_weights_alone_is_not_gone_on_from(flags, tmp_path, caplog, adapters):
    main(flags(save_only_model=True, **adapters))
    assert "no checkpoint of this run can be gone on from" in caplog.text
    words = "checkpoint-2 has weights but no optimizer, no schedule, no random states .*--model_name_or_path"
    with pytest.raises(ValueError, match=words):
        main(flags(max_steps=4, **adapters))
    main(flags(save_only_model=True, **adapters))  # is finished


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("optimizer.pt", "no optimizer "),
        ("scheduler.pt", "no schedule "),
        ("rng_state.pth", "no random states "),
    ],
)
def test_a_named_checkpoint_that_lacks_a_part_is_refused(flags, tmp_path, lost, words):
    main(flags())
    folder = tmp_path / "run" / "checkpoint-1"
    for name in (lost, "checksums.json"):  # without sums nobody else would notice
        (folder / name).unlink()
    with pytest.raises(ValueError, match=f"checkpoint-1 has weights but {words}"):
        main(flags(output_dir=tmp_path / "other", resume_from_checkpoint=folder))


@pytest.mark.parametrize(
    "names",
    [
        ("optimizer.pt", "scheduler.pt", "rng_state.pth"),
        ("optimizer.bin", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"),
        ("optimizer_0", "scheduler.pt", "rng_state_0.pth"),
        ("global_step2", "rng_state_0.pth"),
    ],
    ids=["alone", "FSDP", "FSDP in shards", "DeepSpeed"],
)
def test_every_kind_of_optimizer_is_known(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    check_complete(tmp_path)


@pytest.mark.parametrize(
    "adapters", [{}, {"use_llm_lora": 4}, {"use_llm_lora": 4, "save_adapter_only": True}], ids=["full", "LoRA", "alone"]
)
def test_the_best_weights_are_exported_with_their_delta(flags, golden_folder, tmp_path, adapters):
    """A loss that is called the better the greater it is: the first of two checkpoints is the best."""
    main(
        flags(
            eval_meta_path=golden_folder / "data" / "meta.json",
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=True,
            **adapters,
        )
    )
    run = tmp_path / "run"
    state = json.loads((run / "trainer_state.json").read_text())
    best, other = run / "checkpoint-1", run / "checkpoint-2"
    assert state["best_model_checkpoint"] == str(best)
    name = "adapter/adapter_model.safetensors" if adapters else "model.safetensors"
    exported, expected, last = (load_file(folder / name) for folder in (run, best, other))
    assert all(torch.equal(exported[key], expected[key]) for key in exported)
    assert any(not torch.equal(exported[key], last[key]) for key in exported)
    if not adapters.get("save_adapter_only"):
        exported, expected = (load_file(folder / "model.safetensors") for folder in (run, best))
        assert all(torch.equal(exported[key], expected[key]) for key in exported)
    evaluated = json.loads((run / "eval_results.json").read_text())
    logged = next(entry for entry in state["log_history"] if "eval_loss" in entry)
    assert evaluated["eval_loss"] == pytest.approx(logged["eval_loss"], rel=1e-6)
    assert evaluated["eval_delta"] == logged["eval_delta"]


def test_the_throughput_of_the_first_entry_leaves_out_what_came_before(flags, tmp_path, monkeypatch):
    """The cache of the reference takes an hour by the clock; the first step does not."""
    from internvl_chat.run import metrics, trainer

    late = 0.0
    clock = metrics.time.monotonic

    class Clock:
        monotonic = staticmethod(lambda: clock() + late)

    fill = trainer.fill_cache

    def slow_fill(*args):
        nonlocal late
        late = 3600.0
        return fill(*args)

    monkeypatch.setattr(metrics, "time", Clock)
    monkeypatch.setattr(trainer, "fill_cache", slow_fill)
    main(flags(reference="cache", max_steps=1, save_strategy="no"))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert next(entry for entry in log if "loss" in entry)["pairs_per_second"] > 2 / 300
