"""When a run looks at held-out answers, what a fall does to it, and that looking changes nothing else."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.run.entry import Finding
from internvl_chat.run.held_out import Look
from internvl_chat.training import open_questions, train
from tests.flags import as_flags


class Scripted:
    """Stands for questions: every look has the next of some accuracies, and one below the first is a fall."""

    accuracies: tuple = (0.5,) * 9
    seen: list = []

    def __init__(self):
        self.first = None

    def look(self, model, alive):
        assert not model.training
        alive()
        now = self.accuracies[len(self.seen)]
        self.seen.append(now)
        fall = "answers got worse" if self.first is not None and now < self.first else ""
        self.first = now if self.first is None else self.first
        return Look({"eval_accuracy": now}, fall)

    def state_dict(self):
        return {} if self.first is None else {"first": self.first}

    def load_state_dict(self, state):
        self.first = state.get("first")
        return self.first is not None


def open_scripted(flags, tokenizer, dataset, looks):
    """Opens them for a run."""
    assert looks == 2
    return Scripted()


@pytest.fixture
def run(golden_folder, tmp_path, monkeypatch):
    """Function that trains 4 steps, with a look every 2 at these accuracies; the entries of looks by step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = shutil.copytree(golden_folder / "data", tmp_path / "data")
    settings = {
        "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
        "meta_path": data / "meta.json",
        "force_image_size": 56,
        "max_seq_length": 512,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "drop_path_rate": 0.2,
        "max_steps": 4,
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "eval_steps": 2,
    }

    def start(folder, *accuracies, **changes):
        Scripted.accuracies, Scripted.seen = accuracies, []
        asked = {"eval_prompts": "scripted"} if accuracies else {}
        flags = as_flags({**settings, "output_dir": tmp_path / folder, **asked, **changes})
        train(flags, f"{__name__}:open_scripted")
        history = json.loads((tmp_path / folder / "trainer_state.json").read_text())["log_history"]
        return {entry["step"]: entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry}

    return start


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_run_looks_before_its_first_step_every_so_many_and_at_the_end(run, tmp_path):
    assert run("run", 0.5, 0.6, 0.7) == {0: 0.5, 2: 0.6, 4: 0.7}
    run("unwatched")
    watched, unwatched = weights(tmp_path / "run"), weights(tmp_path / "unwatched")
    assert all(torch.equal(watched[name], unwatched[name]) for name in watched)


def test_a_fall_saves_stops_and_says_which_checkpoint_is_from_before(run, tmp_path):
    with pytest.raises(Finding) as stopped:
        run("run", 0.5, 0.4)
    words = str(stopped.value)
    assert words.startswith("step 2: answers got worse") and len(words.splitlines()) == 3
    assert f"This step is saved in {tmp_path / 'run' / 'checkpoint-2'}; none is from before the fall" in words
    assert (tmp_path / "run" / "checkpoint-2").is_dir() and not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(Finding, match="step 4: .*\n.*checkpoint-2 is from before the fall"):
        run("later", 0.5, 0.6, 0.4)


def test_a_fall_may_only_warn(run, tmp_path, caplog):
    assert run("run", 0.5, 0.4, 0.6, on_fall="warn") == {0: 0.5, 2: 0.4, 4: 0.6}
    assert "step 2: answers got worse" in caplog.text
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_resumed_run_keeps_its_first_look_and_ends_as_the_undisturbed_one(run, tmp_path):
    run("whole", 0.5, 0.6, 0.7)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    assert run("resumed", 0.7) == {0: 0.5, 2: 0.6, 4: 0.7}
    assert Scripted.seen == [0.7]  # the looks before were not made again
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "fallen" / "checkpoint-2")
    with pytest.raises(Finding, match="checkpoint-2 is from before the fall"):
        run("fallen", 0.4)


def test_a_run_that_began_without_looks_is_compared_with_the_step_where_they_begin(run, tmp_path, caplog):
    run("unwatched")
    shutil.copytree(tmp_path / "unwatched" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    assert run("resumed", 0.5, 0.6) == {2: 0.5, 4: 0.6}
    assert "compared with those of step 2, not 0" in caplog.text


def test_the_library_asks_nobody_by_itself():
    with pytest.raises(ValueError, match="--eval_prompts needs who asks"):
        open_questions((None, None, None), None, None, "")
