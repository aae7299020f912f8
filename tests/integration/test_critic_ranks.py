"""A critic on two ranks under ZeRO-3, grouped by prompt, some steps and rows without loss: it trains as on one."""

import pytest

from internvl_chat.train_mpo import main
from tests.critic.judged_rows import ROWS, judged_row, log_of, training_flags, write_mixture
from tests.integration.ranks import train
from tests.integration.test_deepspeed import config_without_compiler

pytestmark = pytest.mark.integration

UNSURE = judged_row("Is it sure?", ("Perhaps.", 0.5))  # of which these thresholds leave nothing to learn


def test_two_ranks_train_as_one(golden_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    meta = write_mixture(tmp_path / "data", golden_folder / "data" / "images", steps=[*ROWS, UNSURE])
    grouped = {"group_by": "prompt", "tokens_per_device": 1200, "per_device_train_batch_size": 1}
    learned = {"balance_steps": True, "step_thresholds": "0.2,0.7", "step_targets": "scores"}

    def flags(name, **more):
        return training_flags(
            golden_folder / "ckpt" / "tiny-qwen2",
            meta,
            tmp_path / name,
            save_strategy="no",
            **grouped,
            **learned,
            **more,
        )

    main(flags("one", gradient_accumulation_steps=6))
    zero = config_without_compiler("zero_stage3_config.json", tmp_path)
    train(flags("two", gradient_accumulation_steps=3, deepspeed=zero), world=2, log=tmp_path / "log")
    names = ("loss", "steps/accuracy", "f1/macro", "steps/p_right")
    for one, two in zip(log_of(tmp_path / "one", *names), log_of(tmp_path / "two", *names), strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    assert len(log_of(tmp_path / "one")) == 4
    said = (tmp_path / "log").read_text()
    assert "steps of steps: 6 right, 5 wrong (45.5 % of these), 5 without loss; of 1 row none has any" in said
    assert "--group_by prompt: 9 pairs of 5 prompts" in said
