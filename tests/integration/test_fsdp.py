"""FSDP2: two processes that hold half of the weights each train, save and go on as one process does, in float32."""

import shutil

import pytest

from internvl_chat.train_mpo import main
from tests.integration.ranks import train
from tests.integration.test_deepspeed import largest_difference

pytestmark = pytest.mark.integration


def test_two_shards_train_save_and_resume_as_one_process(tiny_flags, losses_of, tmp_path):
    settings = {"max_steps": 4, "save_steps": 2}
    main(tiny_flags(tmp_path / "one", per_device_train_batch_size=2, **settings))
    sharded = {**settings, "fsdp": True}
    train(tiny_flags(tmp_path / "two", **sharded), world=2, log=tmp_path / "log")
    shutil.copytree(tmp_path / "two" / "checkpoint-2", tmp_path / "on" / "checkpoint-2")
    train(tiny_flags(tmp_path / "on", **sharded), world=2, log=tmp_path / "log")
    for run in ("two", "on"):
        assert losses_of(tmp_path / run) == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)
        assert largest_difference(tmp_path / "one", tmp_path / run) <= 1e-6
    assert largest_difference(tmp_path / "one" / "checkpoint-2", tmp_path / "two" / "checkpoint-2") <= 1e-6


def test_adapters_over_sharded_weights_train_as_in_one_process(tiny_flags, losses_of, tmp_path):
    settings = {"max_steps": 2, "save_steps": 2, "use_llm_lora": 4}
    main(tiny_flags(tmp_path / "one", per_device_train_batch_size=2, **settings))
    train(tiny_flags(tmp_path / "two", fsdp=True, **settings), world=2, log=tmp_path / "log")
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)
    assert largest_difference(tmp_path / "one", tmp_path / "two") <= 1e-6
