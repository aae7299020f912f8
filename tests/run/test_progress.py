"""Lines of a run: readable, and complete beside."""

import json
import logging

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from internvl_chat.run.progress import StepLines, shown_batches, step_line

LOGS = {"loss": 0.50123, "rewards/margins": 0.2141, "rewards/accuracies": 0.734, "learning_rate": 7e-6, "delta": 0.1}
LOGS |= {"pairs_per_second": 12.34}


def test_a_step_is_one_line_for_people():
    assert step_line(LOGS, 120, 2000, 2290.4) == (
        "step 120/2000 (6.0 %), 0:38:10 left: loss 0.5012, margin 0.214, accuracy 0.734, rate 7.00e-06, 12.3 pairs/s"
    )
    assert step_line({"eval_loss": 1.5}, 5, 5, None) == "step 5/5 (100.0 %): eval loss 1.5000"
    assert step_line({"train_runtime": 2.5}, 5, 5, None) == "step 5/5 (100.0 %): train_runtime 2.5"


def test_the_record_has_every_figure_and_time_is_reckoned_from_the_steps_of_this_call(tmp_path, capsys, monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr("internvl_chat.run.progress.time.monotonic", lambda: next(now))
    lines, control = StepLines(tmp_path), TrainerControl()
    lines.on_train_begin(None, TrainerState(global_step=10, max_steps=40), control)
    lines.on_log(None, TrainerState(global_step=20, max_steps=40, is_world_process_zero=True), control, logs=LOGS)
    lines.on_log(None, TrainerState(global_step=20, max_steps=40, is_world_process_zero=False), control, logs=LOGS)
    [entry] = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert {**entry, **LOGS} == entry and entry["step"] == 20
    [line] = capsys.readouterr().out.splitlines()
    assert "step 20/40 (50.0 %), 0:00:20 left" in line  # 20 steps at the 10 in 10 s


@pytest.mark.parametrize(("step", "strategy", "logs"), [(39, "steps", False), (40, "steps", True), (40, "no", False)])
def test_the_last_step_has_an_entry_however_short_the_run_is(step, strategy, logs, tmp_path):
    arguments = TrainingArguments(str(tmp_path), logging_steps=500, logging_strategy=strategy, use_cpu=True)
    control = TrainerControl()
    StepLines(tmp_path).on_step_end(arguments, TrainerState(global_step=step, max_steps=40), control)
    assert control.should_log is logs


@pytest.mark.parametrize("bar", [True, False])
def test_a_long_wait_says_what_is_done_and_how_long_it_takes_once_a_minute(bar, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = iter([0.0, 30.0, 61.0, 90.0, 200.0])
    if not bar:  # a bar asks the time by itself
        monkeypatch.setattr("internvl_chat.run.progress.time.monotonic", lambda: next(now))
    assert list(shown_batches("abcd", [2, 4, 4, 2], "log-probs", bar=bar)) == list("abcd")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ([] if bar else ["log-probs: 6 of 12 rows of this rank, 0:01:01 left"])
