"""Curves: what is read from a run's log, and that a picture of it is drawn."""

import json

import pytest
from PIL import Image

from tools.curves.log import curve, read_log
from tools.curves.panels import running_mean
from tools.plot_curves import parse_arguments, plot_curves

PREFERENCE = [
    {"step": step, "loss": 3.0 / step, "nll_loss": 1.0, "losses/sigmoid": 0.7, "rewards/margins": 0.1 * step}
    for step in range(1, 6)
] + [{"step": 5, "eval_loss": 2.0, "eval_rewards/margins": 0.4}, {"step": 5, "train_runtime": 1.0}]


def write_log(folder, entries):
    folder.mkdir(exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": entries}))
    return folder


def test_a_curve_takes_the_entries_that_have_its_name():
    assert curve(PREFERENCE, "rewards/margins") == ([1, 2, 3, 4, 5], pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert curve(PREFERENCE, "eval_rewards/margins") == ([5], [0.4])
    assert curve(PREFERENCE, "absent") == ([], [])


def test_running_mean_by_hand():
    assert running_mean([1.0, 3.0, 5.0, 9.0], 2) == [1.0, 2.0, 4.0, 7.0]
    assert running_mean([1.0, 3.0], 9) == [1.0, 2.0]
    assert running_mean([], 3) == []


@pytest.mark.parametrize("entries", [PREFERENCE, [{"step": 1, "loss": 2.0, "learning_rate": 1e-3}]])
def test_a_picture_is_drawn_for_preference_and_fine_tuning_runs(tmp_path, entries):
    run = write_log(tmp_path / "run", entries)
    out = tmp_path / "plots" / "curves.png"
    plot_curves(parse_arguments(["--run", str(run), "--out", str(out)]))
    with Image.open(out) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # not a blank page


def test_a_run_without_a_log_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"trainer_state.json: no such log"):
        read_log(tmp_path)


def test_a_log_without_training_steps_is_refused(tmp_path):
    run = write_log(tmp_path / "run", [{"step": 0, "eval_loss": 1.0}])
    with pytest.raises(ValueError, match="none of its 1 entries"):
        read_log(run)


def test_a_window_below_one_is_refused(tmp_path):
    run = write_log(tmp_path / "run", PREFERENCE)
    with pytest.raises(SystemExit, match="2"):
        plot_curves(parse_arguments(["--run", str(run), "--out", str(tmp_path / "a.png"), "--window", "0"]))
