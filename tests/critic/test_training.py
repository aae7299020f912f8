"""A critic trained by the command: its log, its checkpoints, its resume, and what it makes of other flags."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from internvl_chat.critic.scoring import StepCritic
from internvl_chat.model import load_config
from internvl_chat.model.conversation import get_template
from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE
from internvl_chat.train_mpo import main
from tests.critic.conftest import picture
from tests.critic.judged_rows import ROWS, log_of, training_flags, write_mixture
from tools.merge_lora import main as merge


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


@pytest.mark.integration
def test_a_critic_is_trained_counted_and_saved(flags, tmp_path, caplog):
    caplog.set_level("INFO")
    main(flags(max_steps=10, save_steps=5, eval_meta_path=tmp_path / "data" / "meta.json"))
    assert "steps of steps_prm: 9 right, 4 wrong (30.8 % of these), 2 without loss" in caplog.text
    log = log_of(tmp_path / "run", "loss", "steps/accuracy", "f1/macro", "steps/right", "steps_per_second")
    assert log[-1][1] < 0.7 * log[0][1]
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_f1/macro"] > 0
    assert load_config(tmp_path / "run").critic == {"system_message": CRITIC_SYSTEM_MESSAGE, "layout": "turns"}
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["adds_up"] and ledger["used"] == 10 * 4 and not ledger["skipped"]
    critic = StepCritic.load(tmp_path / "run", device="cpu")
    assert critic.system == CRITIC_SYSTEM_MESSAGE
    assert len(critic.score("How many?", [picture(60, 60)], [["One.", "Two."]])[0]) == 2


def test_a_resumed_run_equals_one_that_was_never_stopped(flags, tmp_path):
    main(flags("whole", drop_path_rate=0.2))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    main(flags("resumed", drop_path_rate=0.2))
    names = ("loss", "steps/accuracy", "f1/wrong", "grad_norm")
    assert log_of(tmp_path / "resumed", *names) == log_of(tmp_path / "whole", *names)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_adapters_weights_and_soft_targets_of_sure_steps(flags, tmp_path, caplog):
    caplog.set_level("INFO")
    learned = {"step_thresholds": "0.2,0.7", "step_targets": "scores", "balance_steps": True}
    settings = {"eval_meta_path": tmp_path / "data" / "meta.json", "per_device_train_batch_size": 8, "max_steps": 2}
    main(flags(use_llm_lora=4, save_adapter_only=True, save_strategy="no", **settings, **learned))
    assert "steps of steps_prm: 6 right, 5 wrong (45.5 % of these), 4 without loss" in caplog.text
    assert "a right step weighs 0.917, a wrong one 1.100" in caplog.text
    (_, first), (_, second) = log_of(tmp_path / "run", "loss")  # of the same steps, before and after one of them
    assert second < first
    evaluation = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert {"eval_steps/accuracy", "eval_f1/wrong", "eval_steps/p_right", "eval_loss"} <= set(evaluation)
    merge(["--adapter", str(tmp_path / "run"), "--out", str(tmp_path / "merged")])
    assert load_config(tmp_path / "merged").critic["system_message"] == CRITIC_SYSTEM_MESSAGE


def test_a_critic_of_answers_says_so_and_judges_them_where_they_stand(flags, tmp_path, qwen2):
    main(flags(step_layout="answer", step_loss="words", max_steps=1, save_strategy="no"))
    ((_, first),) = log_of(tmp_path / "run", "loss")
    assert 0.5 < first < 1  # an untrained model gives most of its probability to words that are neither
    message = get_template(load_config(qwen2).template).system_message
    assert load_config(tmp_path / "run").critic == {"system_message": message, "layout": "answer"}
    critic = StepCritic.load(tmp_path / "run", device="cpu")
    assert (critic.system, critic.tokenizer.layout) == (message, "answer")


def test_rows_that_cannot_be_judged_are_skipped_and_say_why(flags, tmp_path, golden_folder):
    broken = {**ROWS[4], "conversations": ROWS[4]["conversations"][:-1]}
    write_mixture(tmp_path / "data", golden_folder / "data" / "images", steps_prm=[*ROWS, broken])
    main(flags(max_steps=3, save_strategy="no", max_skipped_share=0.5))
    (skipped,) = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert (skipped["line"], skipped["fault"]) == (9, "turn_order") and "2 steps (human) and 1 judg" in skipped[
        "reason"
    ]
