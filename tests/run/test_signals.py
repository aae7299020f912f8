"""SIGTERM and SIGUSR1: when they end the process, when they wait for a step, and what is on disk afterwards."""

import os
import signal
from types import SimpleNamespace

import pytest
from accelerate import PartialState
from transformers import TrainerControl

from internvl_chat.checkpoint.files import checksums, publish
from internvl_chat.run import signals
from internvl_chat.run.signals import StopOnSignal, shield
from internvl_chat.training import find_resume_point

STEP = SimpleNamespace(global_step=7)


@pytest.fixture(autouse=True)
def handlers():
    """Those of pytest come back even where a test leaves others."""
    before = {number: signal.getsignal(number) for number in signals.STOP_SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def single_process():
    PartialState()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_of_training_a_signal_ends_the_process(number):
    with pytest.raises(SystemExit) as ended, StopOnSignal():
        os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number


def test_in_training_a_signal_waits_for_the_end_of_the_step():
    control = TrainerControl()
    with pytest.raises(SystemExit) as ended, StopOnSignal() as stop:
        stop.on_train_begin(None, STEP, control)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not control.should_save
        stop.on_step_end(None, STEP, control)
        assert control.should_save and control.should_training_stop
        stop.on_train_end(None, STEP, control)
        stop.leave()
    assert ended.value.code == 138
    os.kill(os.getpid(), signal.SIGTERM)  # the launcher ends the other ranks; ours is leaving by itself


def test_a_step_without_a_signal_goes_on():
    control = TrainerControl()
    with StopOnSignal() as stop:
        stop.on_train_begin(None, STEP, control)
        stop.on_step_end(None, STEP, control)
        stop.on_train_end(None, STEP, control)
        stop.leave()
    assert not control.should_save and not control.should_training_stop


def test_the_first_of_two_signals_gives_the_exit_code():
    with pytest.raises(SystemExit) as ended, StopOnSignal() as stop:
        stop.on_train_begin(None, STEP, TrainerControl())
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        stop.leave()
    assert ended.value.code == 138


def test_handlers_are_given_back(handlers):
    with StopOnSignal():
        assert all(signal.getsignal(number) is not handler for number, handler in handlers.items())
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_a_signal_of_another_rank_stops_this_one(monkeypatch):
    monkeypatch.setattr(signals, "highest_of_ranks", lambda value: max(value, int(signal.SIGTERM)))
    control = TrainerControl()
    stop = StopOnSignal()
    stop.on_step_end(None, STEP, control)
    assert control.should_training_stop and stop.received == signal.SIGTERM


def test_a_loader_process_is_deaf_and_still_initialised():
    seen = []
    shield(seen.append)(3)
    assert seen == [3]
    assert all(signal.getsignal(number) == signal.SIG_IGN for number in signals.STOP_SIGNALS)


@pytest.mark.parametrize(("restarts", "expected"), [(None, None), ("0", None), ("1", "checkpoint-4")])
def test_a_requeued_job_goes_on_although_it_was_told_to_start_anew(tmp_path, monkeypatch, restarts, expected):
    fresh = tmp_path / "saving" / "checkpoint-4"
    fresh.mkdir(parents=True)
    publish(fresh, tmp_path / "checkpoint-4", checksums(fresh))
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    args = SimpleNamespace(
        resume_from_checkpoint=None, overwrite_output_dir=True, output_dir=str(tmp_path), process_index=0, world_size=1
    )
    assert find_resume_point(args) == (expected and str(tmp_path / expected))
