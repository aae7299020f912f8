"""Rank and world size from the environment alone."""

import subprocess

import pytest

from internvl_chat.run import process as distributed
from internvl_chat.run.process import ProcessPlace, device_index, export_place, find_place, slurm_port

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "n[0-3]",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[0-1]",
}


def test_nothing_is_a_single_process():
    assert find_place({}) == ProcessPlace(rank=0, local_rank=0, world_size=1)


def test_torchrun_wins_over_slurm():
    assert find_place({**SLURM, **TORCHRUN}) == ProcessPlace(3, 1, 4, "host", 29500)


def test_half_a_torchrun_environment_is_refused():
    with pytest.raises(ValueError, match=r"RANK=3 is set but not \['MASTER_PORT'\]"):
        find_place({name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"})


def test_slurm_tasks_meet_at_the_first_host(monkeypatch):
    def hostnames(command, **_):
        assert command == ["scontrol", "show", "hostnames", "n[0-1]"]
        return subprocess.CompletedProcess(command, 0, stdout="n0\nn1\n")

    monkeypatch.setattr(distributed.subprocess, "run", hostnames)
    assert find_place(SLURM) == ProcessPlace(2, 0, 4, "n0", slurm_port(123456, 0))


def test_an_allocation_of_one_task_is_a_single_process():
    assert find_place({**SLURM, "SLURM_NTASKS": "1"}).world_size == 1


def test_a_batch_script_is_no_task():
    """Slurm sets SLURM_PROCID=0 and SLURM_NTASKS there too."""
    batch = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert find_place(batch) == ProcessPlace()


def test_ports_stay_in_range_and_differ_between_neighbouring_steps():
    ports = [slurm_port(job, step) for job in range(100_000, 100_050) for step in range(4)]
    assert len(set(ports)) == 200
    assert all(10000 <= port < 30000 for port in ports)


@pytest.mark.parametrize(("local_rank", "visible", "device"), [(0, 1, 0), (3, 1, 0), (3, 8, 3), (7, 8, 7)])
def test_a_process_takes_the_gpu_of_its_rank_or_the_one_it_was_given(local_rank, visible, device):
    assert device_index(local_rank, visible) == device


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(ValueError, match="process 4 of this node sees 4 GPUs"):
        device_index(4, 4)


def test_local_rank_is_exported_as_the_gpu_that_is_there(monkeypatch):
    """accelerate takes it modulo the GPUs, DeepSpeed as it is: with one GPU bound to each task it must be 0."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    chosen = []
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed.torch.cuda, "set_device", chosen.append)
    place = distributed.initialize()
    assert (place.rank, place.local_rank, chosen) == (3, 0, [0])
    assert distributed.os.environ["LOCAL_RANK"] == "0"


def test_export_writes_what_torchrun_would(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.setenv(name, "of an earlier test")  # so that it is taken back
    export_place(find_place(TORCHRUN))
    assert {name: distributed.os.environ[name] for name in TORCHRUN} == TORCHRUN
