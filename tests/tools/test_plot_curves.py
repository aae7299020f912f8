"""Curves: what is read from a run's log, and that a picture of it is drawn."""

import json
import math
import os

import pytest
from PIL import Image

from tools.curves.log import LABELS, curve, read_log, read_newest_log
from tools.curves.panels import CRITIC_PANELS, PANELS, RUN_PANELS, debiased_average, loss_panels, thin
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


def test_debiased_average_by_hand():
    assert debiased_average([1.0, 4.0], 3) == [1.0, pytest.approx((0.5 * 1 + 4) / 1.5)]  # decay 1/2
    assert debiased_average([5.0] * 9, 20) == pytest.approx([5.0] * 9)  # no start below the values
    assert debiased_average([7.0, math.nan, 7.0], 3) == pytest.approx([7.0] * 3)
    assert debiased_average([1.0, 2.0], 1) == [1.0, 2.0] and debiased_average([], 3) == []


def test_a_long_curve_keeps_its_spikes():
    values = [0.0] * 10_000
    values[777], values[5001] = 9.0, -4.0
    steps, kept = thin(range(10_000), values)
    assert len(steps) <= 602 and (777, 9.0) in zip(steps, kept, strict=True) and min(kept) == -4.0
    assert thin([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])


def test_rate_memory_and_throughput_are_drawn_as_they_are():
    averaged = {name for panel in (*PANELS, *RUN_PANELS) if panel.has_average for name in panel.names}
    assert averaged.isdisjoint({"learning_rate", "peak_memory_gib", "tokens_per_second", "grad_norm"})
    assert {"loss", "rewards/margins"} <= averaged


def test_a_run_that_goes_on_is_read_from_its_newest_log(tmp_path):
    run = write_log(tmp_path / "run", [{"step": 1, "loss": 9.0}])
    os.utime(run / "trainer_state.json", ns=(1, 1))
    lines = [{"step": k, "loss": float(k)} for k in (1, 2, 3)] + [
        {"step": 2, "loss": 20.0},
        {"step": 2, "eval_loss": 1.0},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    assert read_newest_log(run) == [lines[0], lines[3], lines[4]]  # from step 2 on it is another start that counts
    os.utime(run / "log.jsonl", ns=(0, 0))
    assert read_newest_log(run) == [{"step": 1, "loss": 9.0}]


def test_the_panels_follow_what_a_run_learned():
    critic = [{"step": 1, "loss": 1.0, "f1/macro": 0.5, "f1/right": 0.6, "f1/wrong": 0.4, "steps/accuracy": 0.5}]
    assert [loss_panels(entries)[0].title for entries in (PREFERENCE, critic, [{"loss": 1.0}])] == [
        PANELS[0].title,
        "Loss",
        "Loss",
    ]
    assert "F1 of steps, right and wrong" in [panel.title for panel in loss_panels(critic)]
    assert {name for panel in CRITIC_PANELS for name in panel.names} <= set(LABELS)


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
