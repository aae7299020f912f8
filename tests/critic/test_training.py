"""A critic trained by the command: its log, its checkpoints, its resume, and what it makes of other flags."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.critic.scoring import StepCritic
from internvl_chat.model import load_config
from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE
from internvl_chat.train_mpo import main
from tests.critic.conftest import picture
from tests.critic.judged_rows import ROWS, log_of, training_flags, write_mixture


@pytest.fixture
def qwen2(golden_folder):
    return golden_folder / "ckpt" / "tiny-qwen2"


@pytest.fixture
def flags(qwen2, golden_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    meta = write_mixture(tmp_path / "data", golden_folder / "data" / "images", steps_prm=ROWS)

    def make(folder="run", **changes):
        return training_flags(qwen2, meta, tmp_path / folder, **changes)

    return make


def test_a_critic_is_trained_counted_and_saved(flags, tmp_path, caplog):
    caplog.set_level("INFO")
    main(flags(max_steps=10, save_steps=5, eval_meta_path=tmp_path / "data" / "meta.json"))
    assert "steps of steps_prm: 9 right, 4 wrong (30.8 % of these), 2 without loss" in caplog.text
    log = log_of(tmp_path / "run", "loss", "accuracy", "f1/macro", "steps/right", "steps_per_second")
    assert log[-1][1] < 0.7 * log[0][1]
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_f1/macro"] > 0
    assert load_config(tmp_path / "run").critic == {"system_message": CRITIC_SYSTEM_MESSAGE}
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["adds_up"] and ledger["used"] == 10 * 4 and not ledger["skipped"]
    critic = StepCritic.load(tmp_path / "run", device="cpu")
    assert critic.system == CRITIC_SYSTEM_MESSAGE
    assert len(critic.score("How many?", [picture(60, 60)], [["One.", "Two."]])[0]) == 2


def test_a_resumed_run_equals_one_that_was_never_stopped(flags, tmp_path):
    main(flags("whole", drop_path_rate=0.2))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    main(flags("resumed", drop_path_rate=0.2))
    names = ("loss", "accuracy", "f1/wrong", "grad_norm")
    assert log_of(tmp_path / "resumed", *names) == log_of(tmp_path / "whole", *names)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
