"""Means per pair, by hand."""

import json
import time

import pytest
import torch
from accelerate import Accelerator

from internvl_chat.losses.mixture import PreferenceLoss
from internvl_chat.losses.pair import PreferenceLogps
from internvl_chat.run.metrics import MetricSums, pair_metrics
from internvl_chat.run.process import gather_objects


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def policy(*reference):
    logps = torch.tensor([-4.0, -6.0]), torch.tensor([-5.0, -1.0])
    return PreferenceLogps(*logps, torch.tensor([2, 3]), torch.tensor([4, 1]), *reference)


def loss():
    return PreferenceLoss(
        total=torch.tensor(3.0, requires_grad=True),
        losses={"sigmoid": torch.tensor([0.5, 1.5])},
        nll=torch.tensor(2.0),
        chosen_rewards=torch.tensor([0.3, -0.1]),
        rejected_rewards=torch.tensor([0.1, 0.2]),
    )


def test_sums_of_a_batch_by_hand():
    sums = {name: value.item() for name, value in pair_metrics(policy(), loss()).items()}
    assert sums == pytest.approx(
        {
            "nll_loss": 4.0,
            "losses/sigmoid": 2.0,
            "logps/chosen": -10.0,
            "logps/rejected": -6.0,
            "lengths/chosen": 5.0,
            "lengths/rejected": 5.0,
            "rewards/chosen": 0.2,
            "rewards/rejected": 0.3,
            "rewards/margins": -0.1,
            "rewards/accuracies": 1.0,
            "lengths/margin": 0.0,  # -2 and 2
            "lengths/preferred": -4.0,  # the shorter answer has the higher reward in both pairs
        }
    )


def test_fine_tuning_reports_nothing_of_a_preference():
    metrics = pair_metrics(policy(), loss(), has_rejected=False)
    assert not [name for name in metrics if "reward" in name or "rejected" in name]


def test_reading_gives_means_per_pair_and_starts_anew(accelerator):
    sums = MetricSums()
    sums.add({"x": torch.tensor(4.0).double()}, num_pairs=1, num_tokens=10)
    sums.add({"x": torch.tensor(2.0).double(), "y": torch.tensor(6.0).double()}, num_pairs=2, num_tokens=20)
    time.sleep(0.01)
    means = sums.read(accelerator)
    assert means["x"] == 2.0
    assert means["y"] == 2.0
    assert means["tokens_per_second"] == pytest.approx(10 * means["pairs_per_second"])
    assert 0.05 < means["peak_memory_gib"] < 100  # torch alone takes a fifth of a GiB
    assert sums.read(accelerator) == {}


def test_objects_of_a_single_process(accelerator):
    assert gather_objects({"a": 1}) == [{"a": 1}]


def test_distance_from_the_reference_is_per_token_of_chosen_answers():
    pairs = policy(torch.tensor([-5.0, -9.0]), torch.zeros(2))
    assert pair_metrics(pairs, loss())["kl/chosen"].item() == pytest.approx(1 / 2 + 3 / 3)


def test_sums_between_two_log_entries_are_kept(accelerator):
    first, second = MetricSums(), MetricSums()
    first.add({"x": torch.tensor(0.1).double()}, num_pairs=1, num_tokens=10)
    second.add({"x": torch.tensor(2.0).double(), "y": torch.tensor(6.0).double()}, num_pairs=2, num_tokens=20)
    again = MetricSums()
    again.load_state_dicts([json.loads(json.dumps(first.state_dict()))])
    assert again.sums == first.sums and again.num_pairs == 1 and again.num_tokens == 10
    again.load_state_dicts([first.state_dict(), second.state_dict()])  # of two ranks that one goes on for
    means = again.read(accelerator)
    assert means["x"] == pytest.approx(0.7) and means["y"] == 2
