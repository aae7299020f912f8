"""The study at its smallest: MPO lifts held-out reasoning; DPO alone does not, and swapped pairs ruin it."""

from pathlib import Path

import pytest

from benchmarks.study.measures import step_by_step
from benchmarks.study.settings import Settings
from benchmarks.study.stages import prepare, train_arm

BASE = Path(__file__).parents[2] / "ckpt" / "tiny-base"
SIZES = {"prompts": 200, "held_out": 250, "samples": 8, "pairs_per_prompt": 2, "steps": 40, "learning_rate": 2e-4}
LEAST_LIFT = 8  # points: MPO gains 15 here, DPO alone 2
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Data and pairs of one seed are made."""
    made = Settings(base=BASE, out=tmp_path_factory.mktemp("study"), **SIZES)
    prepare(made, seed=0)
    return made


@pytest.fixture(scope="module")
def check(settings):
    """Function that trains an arm and fails unless its step-by-step accuracy is far enough above the base's."""
    base = step_by_step(BASE, settings.folder(0))

    def lifted(arm):
        found = step_by_step(train_arm(settings, 0, arm), settings.folder(0))
        assert found >= base + LEAST_LIFT, f"{arm}: {base:.1f} % before, {found:.1f} % after"

    return lifted


def test_mpo_lifts_step_by_step_accuracy(check):
    check("mpo")


@pytest.mark.parametrize("arm", ["dpo", "swapped"])
def test_dpo_alone_and_swapped_pairs_fail_that_test(check, arm):
    with pytest.raises(AssertionError, match=f"{arm}: .* % after"):
        check(arm)
