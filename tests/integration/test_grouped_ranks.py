"""Groups and a budget of tokens: two ranks train as one does, under DDP and ZeRO-1; one goes on from two."""

import json
import shutil

import pytest

from internvl_chat.train_mpo import main
from tests.integration.ranks import train
from tests.integration.test_balanced_ranks import used_rows
from tests.integration.test_deepspeed import config_without_compiler

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(golden_folder, tmp_path):
    """Steps of eight pairs, a prompt in three of them; without the delta, which counts micro-batches of ranks."""
    data = shutil.copytree(golden_folder / "data", tmp_path / "data")
    for path in data.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        more = [{**row, "rejected": f"{row['rejected']} {number}"} for row in rows for number in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in more))
    return {
        "meta_path": data / "meta.json",
        "group_by": "prompt",
        "tokens_per_device": 700,
        "loss_type": "sigmoid+",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "max_steps": 5,
        "save_steps": 2,
    }


def test_two_ranks_train_as_one_and_one_goes_on_from_two(settings, tiny_flags, losses_of, tmp_path):
    main(tiny_flags(tmp_path / "one", **settings))
    two = {**settings, "gradient_accumulation_steps": 4}
    zero = config_without_compiler("zero_stage1_config.json", tmp_path)
    train(tiny_flags(tmp_path / "two", **two, deepspeed=zero), world=2, log=tmp_path / "log")
    train(tiny_flags(tmp_path / "ddp", **two), world=2, log=tmp_path / "log")
    shutil.copytree(tmp_path / "ddp" / "checkpoint-2", tmp_path / "on" / "checkpoint-2")
    main(tiny_flags(tmp_path / "on", **settings))
    expected = losses_of(tmp_path / "one")
    assert len(expected) == 5
    log = (tmp_path / "log").read_text()
    assert "--group_by prompt: 60 pairs of 20 prompts, 3.0 each, most 3" in log and "NOT GROUPED" not in log
    for run in ("two", "ddp", "on"):
        assert losses_of(tmp_path / run) == pytest.approx(expected, abs=1e-5)
        assert used_rows(tmp_path / run) == used_rows(tmp_path / "one")
