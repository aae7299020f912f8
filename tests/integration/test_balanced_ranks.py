"""Balanced ranks: two train as one does, and one goes on where two have stopped, in float32 to 1e-5."""

import json
import shutil

import pytest

from internvl_chat.train_mpo import main
from tests.integration.ranks import train

pytestmark = pytest.mark.integration


def test_balanced_ranks_train_as_one_and_one_goes_on_from_two(tiny_flags, losses_of, tmp_path):
    """Seven steps of four pairs: an epoch of five and a part of the next.

    Without the delta, which counts one observation per rank and micro-batch.
    """
    settings = {"balance_ranks": True, "loss_type": "sigmoid+", "max_steps": 7, "save_steps": 3}
    one = {**settings, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    main(tiny_flags(tmp_path / "one", **one))
    train(tiny_flags(tmp_path / "two", **{**one, "gradient_accumulation_steps": 1}), world=2, log=tmp_path / "log")
    shutil.copytree(tmp_path / "two" / "checkpoint-3", tmp_path / "on" / "checkpoint-3")
    main(tiny_flags(tmp_path / "on", **one))
    expected = losses_of(tmp_path / "one")
    assert len(expected) == 7
    for run in ("two", "on"):
        assert losses_of(tmp_path / run) == pytest.approx(expected, abs=1e-5)
        assert used_rows(tmp_path / run) == used_rows(tmp_path / "one")


def used_rows(run):
    """What the books say of the rows."""
    books = json.loads((run / "ledger.json").read_text())
    return {name: value for name, value in books.items() if name in ("promised", "used", "skipped")}
