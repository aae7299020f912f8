"""Rank and world size from the environment alone."""

import subprocess

import pytest

from internvl_chat import distributed
from internvl_chat.distributed import ProcessPlace, export_place, find_place, slurm_port

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "n[0-1]",
    "SLURM_JOB_ID": "123456",
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
    assert find_place(SLURM) == ProcessPlace(2, 0, 4, "n0", slurm_port(123456))


def test_an_allocation_of_one_task_is_a_single_process():
    assert find_place({**SLURM, "SLURM_NTASKS": "1"}).world_size == 1


def test_ports_stay_in_range_and_differ_between_neighbouring_jobs():
    ports = [slurm_port(job) for job in range(100_000, 100_050)]
    assert len(set(ports)) == 50
    assert all(20000 <= port < 60000 for port in ports)


def test_export_writes_what_torchrun_would(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    export_place(find_place(TORCHRUN))
    assert {name: distributed.os.environ[name] for name in TORCHRUN} == TORCHRUN
    for name in TORCHRUN:
        monkeypatch.delenv(name)
