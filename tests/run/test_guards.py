"""Steps that are not finite, curves that look wrong, runs that hang, and folders that cannot be written to."""

import errno
import math
import os
import time
from types import SimpleNamespace

import pytest
import torch

from internvl_chat.checkpoint.output import OutputError, check_writable, writing
from internvl_chat.losses.mixture import PreferenceLoss
from internvl_chat.run import metrics
from internvl_chat.run.guards import CurveWatch, likelihood_displacement, loss_spike, reward_collapse
from internvl_chat.run.metrics import StepGuard
from internvl_chat.run.watchdog import Watchdog


def loss(total, part=0.5):
    zeros = torch.zeros(2)
    return PreferenceLoss(torch.tensor(total), {"sigmoid": torch.tensor([part, part])}, torch.tensor(1.0), zeros, zeros)


@pytest.fixture
def model():
    module = torch.nn.Linear(2, 2)
    module.weight.grad, module.bias.grad = torch.zeros(2, 2), torch.zeros(2)
    return module


@pytest.fixture
def guard():
    return StepGuard(torch.device("cpu"))


def test_a_finite_step_passes_and_is_forgotten(guard, model):
    guard.add(loss(1.0), ["a:1", "a:2"])
    assert guard.check(torch.tensor(3.0), model) is None
    assert guard.batches == []
    assert guard.check(None, model) is None  # a rank without rows


def test_a_loss_that_is_not_finite_is_told_with_its_rows_and_parts(guard, model):
    guard.add(loss(1.0), ["a:1"])
    guard.add(loss(math.inf, part=math.inf), ["a:7", "b:2"])
    words = guard.check(torch.tensor(math.nan), model)
    assert words == (
        "loss is inf with parts {'sigmoid': inf, 'nll': 1.0} for rows ['a:7', 'b:2']: "
        "look at these rows, or lower --learning_rate"
    )


def test_a_gradient_that_is_not_finite_names_parameters_and_rows(guard, model):
    for start in range(0, 24, 2):
        guard.add(loss(1.0), [f"a:{start}", f"a:{start + 1}"])
    model.bias.grad[1] = math.inf
    words = guard.check(math.inf, model)
    assert "the norm of the gradient is inf in 1 parameters, first ['bias']" in words
    assert "'a:0'" in words and "'a:19'] and 4 more" in words


def test_another_rank_is_at_fault(guard, model, monkeypatch):
    monkeypatch.setattr(metrics.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics.dist, "all_reduce", lambda tensor, op: tensor.fill_(1))
    other = [(["b:9"], {"loss": math.nan, "nll": 2.0})]
    monkeypatch.setattr(metrics, "gather_objects", lambda mine: [mine, other])
    guard.add(loss(1.0), ["a:1"])
    assert "loss is nan with parts {'nll': 2.0} for rows ['b:9']" in guard.check(torch.tensor(1.0), model)


def test_a_spike_is_far_above_the_median():
    usual = [1.0, 1.1, 0.9, 1.05, 0.95] * 10
    assert loss_spike([*usual, 1.3]) is None
    assert "loss 2, usually 1 (median deviation 0.05)" in loss_spike([*usual, 2.0])
    assert loss_spike([*usual[:20], 9.0]) is None  # too early to know what is usual


def test_a_loss_that_hardly_moves_has_no_spike_in_its_last_digits():
    assert loss_spike([*[1.0] * 50, 1.007]) is None  # within 8 thousandths of the median
    assert "loss 1.01" in loss_spike([*[1.0] * 50, 1.01])


def test_half_a_window_is_enough_to_know_what_is_usual():
    assert loss_spike([*[1.0] * 24, 9.0]) is None
    assert "loss 9" in loss_spike([*[1.0] * 25, 9.0])


def test_rewards_that_fall_but_stay_above_those_of_the_reference_are_no_displacement():
    falling = entries(-1, 1, 0.8, 100)
    for entry in falling:
        entry["rewards/chosen"] += 2  # from 2 to 1
    assert likelihood_displacement(falling) is None
    for entry in falling:
        entry["rewards/chosen"] = -1.0  # below it, but falling no further
    assert likelihood_displacement(falling) is None


def test_an_entry_without_margins_tells_nothing_of_them():
    displaced = entries(-2, 1, 0.8, 100)
    assert likelihood_displacement(displaced)
    for place in (0, -1):
        told = {name: value for name, value in displaced[place].items() if name != "rewards/margins"}
        changed = [told, *displaced[1:]] if place == 0 else [*displaced[:-1], told]
        assert likelihood_displacement(changed) is None
    collapsed = entries(0, 0, 0.52, 200)
    del collapsed[-1]["rewards/accuracies"]
    assert reward_collapse(collapsed) is None


def entries(chosen, margins, accuracies, number):
    steps = torch.linspace(0, 1, number).tolist()
    return [
        {
            "loss": 1.0,
            "step": step,
            "rewards/chosen": chosen * x,
            "rewards/margins": margins * x,
            "rewards/accuracies": accuracies,
        }
        for step, x in enumerate(steps, 1)
    ]


@pytest.mark.parametrize(("chosen", "margins", "warns"), [(-2, 1, True), (2, 1, False), (-2, -1, False)])
def test_displacement_is_falling_rewards_with_rising_margins(chosen, margins, warns):
    words = likelihood_displacement(entries(chosen, margins, 0.8, 100))
    assert bool(words) == warns
    if warns:
        assert "rewards/chosen fell from -0.495 to -1.51 while rewards/margins rose from 0.247 to 0.753" in words


def test_collapse_is_the_accuracy_of_a_coin_after_many_entries():
    assert "rewards/accuracies is 0.520" in reward_collapse(entries(0, 0, 0.52, 200))
    assert reward_collapse(entries(0, 0, 0.52, 199)) is None
    assert reward_collapse(entries(0, 0, 0.7, 200)) is None


def test_words_come_once_in_a_hundred_entries(caplog):
    watch, history = CurveWatch(), entries(-2, 1, 0.8, 220)
    for last in range(90, 221):
        state = SimpleNamespace(log_history=history[:last], is_world_process_zero=True, global_step=last)
        watch.on_log(None, state, None)
    told = [record.getMessage() for record in caplog.records]
    assert [words.split(":")[0] for words in told] == ["step 100", "step 200"]
    assert all("likelihood displacement" in words for words in told)


def test_a_hang_leaves_the_stacks_of_all_threads(tmp_path, caplog):
    dog = Watchdog(tmp_path, rank=3, seconds=0.2)
    dog.on_train_begin()
    dog.on_step_begin()
    dog.on_step_end()
    deadline = time.monotonic() + 30
    while not dog.dumps and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    assert dog.dumps == 1  # a silence is reported once
    dog.on_train_end()
    stacks = (tmp_path / "stacks-rank3.txt").read_text()
    assert "no sign of life" in stacks and "test_a_hang_leaves_the_stacks_of_all_threads" in stacks
    assert str(tmp_path / "stacks-rank3.txt") in caplog.text


def test_far_longer_than_usual_is_ten_times(tmp_path):
    dog = Watchdog(tmp_path, rank=0, seconds=60)
    assert dog.limit() == 60
    dog.durations.extend([5.0, 9.0, 200.0])
    assert dog.limit() == 90


def test_no_watch_without_seconds(tmp_path):
    dog = Watchdog(tmp_path, rank=0, seconds=0)
    dog.on_train_begin()
    assert dog.alive_at == 0.0


@pytest.fixture
def as_nobody():
    """Permissions count for this test, also where the tests run as root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield
    if is_root:
        os.seteuid(0)


def test_a_folder_without_permission_is_found_before_anything_is_loaded(tmp_path, as_nobody):
    folder = tmp_path / "mine"
    if os.geteuid() == 65534:
        os.seteuid(0)
        folder.mkdir(mode=0o555)
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    else:
        folder.mkdir(mode=0o555)
    with pytest.raises(OutputError, match=r"--output_dir .*mine.* cannot be written to .*: name a folder"):
        check_writable(folder)


def test_a_folder_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_a_full_disk_is_told_with_path_and_cure(tmp_path):
    with (
        pytest.raises(OutputError, match=r"checkpoint-2: not written, .*No space left.*GB free.*kept\. Free or mount"),
        writing(tmp_path / "checkpoint-2", "checkpoint-1 is kept"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_vanished_is_named(tmp_path):
    with (
        pytest.raises(OutputError, match=r"gone is not there \(any more\)"),
        writing(tmp_path / "gone" / "checkpoint-2", "Nothing is kept"),
    ):
        (tmp_path / "gone" / "checkpoint-2").write_text("")


def test_an_inner_error_is_told_once(tmp_path):
    with pytest.raises(OutputError) as told, writing(tmp_path / "outer", "-"), writing(tmp_path / "inner", "-"):
        raise OSError("no")
    assert "inner" in str(told.value) and "outer" not in str(told.value)
