"""Rank and world size from the environment alone."""

import subprocess
import sys

import pytest
import torch

from internvl_chat.run import process
from internvl_chat.run.process import device_index, find_process, rendezvous, slurm_port

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


def place(environment):
    found = find_process(environment)
    return found.rank, found.local_rank, found.world_size


def test_nothing_is_a_single_process():
    assert place({}) == (0, 0, 1)


def test_torchrun_wins_over_slurm():
    assert place({**SLURM, **TORCHRUN}) == (3, 1, 4)
    assert rendezvous({**SLURM, **TORCHRUN}) == ("host", 29500)


@pytest.mark.parametrize(("lost", "find"), [("WORLD_SIZE", find_process), ("MASTER_PORT", rendezvous)])
def test_half_a_torchrun_environment_is_refused(lost, find):
    with pytest.raises(ValueError, match=rf"RANK=3 is set but not \['{lost}'\]"):
        find({name: value for name, value in TORCHRUN.items() if name != lost})


def test_slurm_tasks_meet_at_the_first_host(monkeypatch):
    def hostnames(command, **_):
        assert command == ["scontrol", "show", "hostnames", "n[0-1]"]
        return subprocess.CompletedProcess(command, 0, stdout="n0\nn1\n")

    monkeypatch.setattr(process.subprocess, "run", hostnames)
    assert place(SLURM) == (2, 0, 4)
    assert rendezvous(SLURM) == ("n0", slurm_port(123456, 0))


def test_an_allocation_of_one_task_is_a_single_process():
    assert place({**SLURM, "SLURM_NTASKS": "1"}) == (0, 0, 1)


def test_a_batch_script_is_no_task():
    """Slurm sets SLURM_PROCID=0 and SLURM_NTASKS there too."""
    batch = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert place({**batch, "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == (0, 0, 1)


def test_the_shell_of_salloc_is_no_task():
    """It runs in a step of its own, of one task, with the variables of its allocation of many."""
    shell = {**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "4294967290"}
    assert place({**shell, "SLURM_STEP_NUM_TASKS": "1"}) == (0, 0, 1)


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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    found = process.initialize()
    assert (found.rank, found.local_rank, chosen) == (3, 0, [0])
    assert process.os.environ["LOCAL_RANK"] == "0"


def test_export_writes_what_torchrun_would(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.setenv(name, "of an earlier test")  # so that it is taken back
    process.export_process(find_process(TORCHRUN), *rendezvous(TORCHRUN))
    assert {name: process.os.environ[name] for name in TORCHRUN} == TORCHRUN


ONE_OF_RANKS = """
import atexit, sys, threading, types
from internvl_chat.run.entry import enter

class Held:
    def __del__(self):
        print("taken down")

held = Held()
how, world_size = sys.argv[1:]
group = types.SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: int(world_size))
sys.modules["torch"] = types.SimpleNamespace(distributed=group)
atexit.register(print, "exit function")
threading.Timer(0.1, print, ["thread"]).start()
enter({"return": lambda: 7, "raise": lambda: sys.exit(7)}[how])
"""


@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize(("world_size", "last"), [(2, []), (1, ["taken down"])])
def test_a_rank_ends_without_being_taken_down(how, world_size, last):
    """Else a thread of gloo that still holds a tensor may abort it: exit code 134 of a run that ended well."""
    command = [sys.executable, "-c", ONE_OF_RANKS, how, str(world_size)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.splitlines()) == (7, ["thread", "exit function", *last])
