"""Disks that fill up and paths that vanish under a run: a clear error, and nothing is lost that was saved."""

import json
import resource
import shutil
import signal
import threading
from importlib import import_module

import pytest

from internvl_chat.adapters.lora import add_adapters, lora_config, save_adapter
from internvl_chat.checkpoint.output import OutputError, writing
from internvl_chat.checkpoint.resume import last_whole_checkpoint
from internvl_chat.model import load_model
from internvl_chat.run.resumable import ResumableTrainer
from internvl_chat.train_mpo import main
from tests.flags import as_flags


@pytest.fixture
def flags(golden_folder, tmp_path, monkeypatch):
    """Of a run of four steps with a checkpoint every second one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {
        "model_name_or_path": shutil.copytree(golden_folder / "ckpt" / "tiny-qwen2", tmp_path / "model"),
        "meta_path": golden_folder / "data" / "meta.json",
        "output_dir": tmp_path / "disk" / "run",
        "force_image_size": 56,
        "max_seq_length": 512,
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return as_flags(settings)


@pytest.fixture
def before_checkpoint(monkeypatch):
    """Function that has something done before the checkpoint of a step is saved."""
    save = ResumableTrainer._save_checkpoint

    def arrange(step, happen):
        def saving(self, *args):
            if self.state.global_step == step:
                happen()
            save(self, *args)

        monkeypatch.setattr(ResumableTrainer, "_save_checkpoint", saving)

    return arrange


@pytest.fixture
def disk_with(monkeypatch):
    """Function to the bytes that a file may still have; unlimited again after the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def losses(run):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


def check_that_it_goes_on(flags, run):
    """The same command ends the run, with the entries of the log that it had."""
    saved = last_whole_checkpoint(run)
    assert saved is not None and saved.name == "checkpoint-2"
    assert not (run / "saving").exists()
    kept = losses(saved)
    main(flags)
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4] and losses(run)[:2] == kept
    assert json.loads((run / "ledger.json").read_text())["adds_up"]


@pytest.mark.parametrize("size", [0, 3000, 100_000])
def test_a_disk_that_fills_up_costs_only_what_was_not_saved(flags, tmp_path, before_checkpoint, disk_with, size):
    run, room = tmp_path / "disk" / "run", resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    before_checkpoint(4, lambda: disk_with(size))
    with pytest.raises(OutputError, match=r"checkpoint-4: not written, .*last whole .* is .*checkpoint-2\. Free"):
        main(flags)
    disk_with(room)
    before_checkpoint(0, lambda: None)
    check_that_it_goes_on(flags, run)


def test_an_output_folder_that_vanishes_is_named(flags, tmp_path, before_checkpoint):
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"

    def unmount():
        disk.rename(elsewhere)
        disk.write_text("no folder")

    before_checkpoint(4, unmount)
    with pytest.raises(OutputError, match=r"checkpoint-4: not written, .*/saving is not there \(any more\)"):
        main(flags)
    disk.unlink()
    elsewhere.rename(disk)
    before_checkpoint(0, lambda: None)
    check_that_it_goes_on(flags, disk / "run")


def test_a_source_that_vanishes_is_named(flags, tmp_path, before_checkpoint):
    source, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    before_checkpoint(4, lambda: source.rename(elsewhere))
    with pytest.raises(OutputError, match="model: the checkpoint that this run came from is gone; bring it back"):
        main(flags)
    for thread in threading.enumerate():
        if thread.name == "watchdog":  # ends with the run, not with the process
            thread.join(10)
            assert not thread.is_alive()
    elsewhere.rename(source)
    before_checkpoint(0, lambda: None)
    check_that_it_goes_on(flags, tmp_path / "disk" / "run")


def test_an_error_that_has_nothing_to_do_with_writing_stays_what_it_is(tmp_path):
    """A rank that lost another one must not be told to free the disk."""
    lost = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:59040"
    with pytest.raises(RuntimeError, match="Connection closed by peer") as raised, writing(tmp_path, "Nothing"):
        raise RuntimeError(lost)
    assert not isinstance(raised.value, OutputError)
    full = "[enforce fail at inline_container.cc:626] . unexpected pos 64 vs 0"
    with pytest.raises(OutputError, match="free|Free"), writing(tmp_path, "Nothing"):
        raise RuntimeError(full)


@pytest.fixture(scope="module")
def adapted(golden_folder, tmp_path_factory):
    """A checkpoint that has an adapter alone."""
    base, folder = golden_folder / "ckpt" / "tiny-qwen2", tmp_path_factory.mktemp("adapted")
    model = load_model(base)
    add_adapters(model, lora_config(4, 0, base))
    save_adapter(model, model.state_dict(), folder)
    return folder


@pytest.mark.parametrize("tool", ["convert", "make_tiny_checkpoint", "merge_lora"])
def test_a_tool_that_writes_a_checkpoint_says_that_the_disk_is_full(tool, golden_folder, adapted, tmp_path, disk_with):
    """Not only trainings write large files, and what the library of weights raises is no OSError."""
    flags = {
        "convert": ["--checkpoint", golden_folder / "ckpt" / "tiny-qwen2"],
        "make_tiny_checkpoint": [],
        "merge_lora": ["--adapter", adapted],
    }
    disk_with(100_000)
    with pytest.raises(OutputError, match="out: not written, .*Free or mount the disk, delete") as told:
        import_module(f"tools.{tool}").main([*map(str, flags[tool]), "--out", str(tmp_path / "out")])
    assert "--save_total_limit" not in str(told.value)
