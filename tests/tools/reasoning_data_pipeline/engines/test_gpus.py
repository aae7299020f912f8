"""Groups of tasks by --tp, and the GPUs of each."""

import os

import pytest
import torch

from internvl_chat.run.process import Process
from tools.reasoning_data_pipeline.engines.gpus import engine_worker, group_devices, visible_devices
from tools.reasoning_data_pipeline.sampling import pipeline as sampling


def test_the_first_task_of_each_group_leads():
    found = [engine_worker(Process(rank, 16, "run"), 8) for rank in range(16)]
    assert found[0] == Process(0, 2, "run")
    assert found[8] == Process(1, 2, "run")
    assert [place for number, place in enumerate(found) if number % 8] == [None] * 14


def test_every_task_leads_its_own_group_of_one():
    assert [engine_worker(Process(rank, 3, "run"), 1) for rank in range(3)] == [Process(r, 3, "run") for r in range(3)]


def test_a_task_alone_leads_a_group_of_any_size():
    assert engine_worker(Process(0, 1, "run"), 8) == Process(0, 1, "run")


@pytest.mark.parametrize(("tasks", "tp"), [(12, 8), (4, 8), (3, 2), (4, 0)])
def test_tasks_must_make_whole_groups(tasks, tp):
    with pytest.raises(ValueError, match=f"--tp.*{tp}"):
        engine_worker(Process(0, tasks, "run"), tp)


@pytest.mark.parametrize(
    ("visible", "local", "tp", "found"),
    [
        ("01234567", 0, 8, "01234567"),
        ("01234567", 4, 4, "4567"),
        ("01234567", 3, 1, "3"),
        ("4567", 4, 4, "4567"),
        ("5", 5, 1, "5"),
        ("", 3, 8, ""),
    ],
)
def test_a_group_takes_gpus_that_it_sees(visible, local, tp, found):
    assert group_devices(list(visible), local, tp) == list(found)


@pytest.mark.parametrize(("visible", "local", "tp"), [("0", 0, 8), ("01234567", 4, 8), ("0123", 4, 1)])
def test_too_few_gpus_are_refused(visible, local, tp):
    with pytest.raises(ValueError, match=f"task {local} of this node.*--tp {tp}"):
        group_devices(list(visible), local, tp)


def test_an_engine_claims_the_gpus_of_its_group(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("LOCAL_RANK", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    sampling.claim_devices(4)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    sampling.claim_devices(4)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_places_come_from_the_environment():
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "GPU-a, 3"}, 8) == ["GPU-a", "3"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": ""}, 8) == []
    assert visible_devices({}, 2) == ["0", "1"]
