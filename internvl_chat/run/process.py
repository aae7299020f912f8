"""Which process of the job this is: rank and world size from Slurm, from torchrun, or alone.

transformers, accelerate and DeepSpeed read the torchrun variables (`RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `MASTER_ADDR`,
`MASTER_PORT`). Under `srun` we derive them from Slurm's; a single process gets them only where a library insists
(DeepSpeed). Call `initialize()` first thing in an entry point; importing this file does nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class ProcessPlace:
    """Place of one process in its job.

    Attributes:
        rank: 0 <= rank < world_size.
        local_rank: index among the processes of this node; its GPU, where it sees those of the whole node.
        world_size: number of processes of the job, >= 1.
        master_address: host of rank 0, None for a single process.
        master_port: TCP port of the rendezvous, None for a single process.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    master_address: str | None = None
    master_port: int | None = None


def find_place(environment: Mapping[str, str]) -> ProcessPlace:
    """Read torchrun's variables, else Slurm's (inside an `srun` step of several tasks), else a single process.

    Raises:
        ValueError: torchrun's variables are there only in part.
    """
    if "RANK" in environment:
        missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise ValueError(f"RANK={environment['RANK']} is set but not {missing}: start with torchrun, or unset RANK")
        rank = int(environment["RANK"])
        return ProcessPlace(
            rank=rank,
            local_rank=int(environment.get("LOCAL_RANK", rank)),
            world_size=int(environment["WORLD_SIZE"]),
            master_address=environment["MASTER_ADDR"],
            master_port=int(environment["MASTER_PORT"]),
        )
    # A batch script has a SLURM_PROCID too, but only what srun starts has a step.
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in environment:
        job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
        return ProcessPlace(
            rank=int(environment["SLURM_PROCID"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            world_size=int(environment["SLURM_NTASKS"]),
            master_address=environment.get("MASTER_ADDR") or first_slurm_host(environment["SLURM_STEP_NODELIST"]),
            master_port=int(environment.get("MASTER_PORT") or slurm_port(job, step)),
        )
    return ProcessPlace()


def first_slurm_host(node_list: str) -> str:
    """First host of a Slurm node list such as `n[0-3]`, by `scontrol show hostnames`."""
    hosts = subprocess.run(["scontrol", "show", "hostnames", node_list], check=True, capture_output=True, text=True)
    return hosts.stdout.split()[0]


def slurm_port(job_id: int, step_id: int) -> int:
    """A rendezvous port that all tasks of a step agree on and two steps rarely share.

    In 10000..29999, below the ports that Linux gives to outgoing connections.
    """
    return 10000 + (job_id * 16 + step_id) % 20000


def device_index(local_rank: int, device_count: int) -> int:
    """The GPU of a process among those it sees: its own, where Slurm bound one to each task, else that of its rank.

    Raises:
        ValueError: it sees several GPUs, but fewer than processes were started on this node.
    """
    if device_count == 1:
        return 0
    if local_rank >= device_count:
        raise ValueError(f"process {local_rank} of this node sees {device_count} GPUs: start one process per GPU")
    return local_rank


def export_place(place: ProcessPlace) -> None:
    """Write the place into the torchrun variables of this process."""
    values = {
        "RANK": place.rank,
        "LOCAL_RANK": place.local_rank,
        "WORLD_SIZE": place.world_size,
        "MASTER_ADDR": place.master_address,
        "MASTER_PORT": place.master_port,
    }
    os.environ.update({name: str(value) for name, value in values.items()})


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def initialize(use_deepspeed: bool = False) -> ProcessPlace:
    """Make this process ready for transformers' TrainingArguments: variables, device, process group.

    Args:
        use_deepspeed: DeepSpeed will train; it wants a process group even for a single process.

    Returns:
        The place of this process.
    """
    place = find_place(os.environ)
    if torch.cuda.is_available():
        # accelerate and DeepSpeed take LOCAL_RANK for the index of the GPU
        place = replace(place, local_rank=device_index(place.local_rank, torch.cuda.device_count()))
        torch.cuda.set_device(place.local_rank)
    if place.world_size > 1:
        export_place(place)
    elif use_deepspeed:
        place = ProcessPlace(master_address="127.0.0.1", master_port=free_port())
        export_place(place)
    if use_deepspeed:
        _initialize_deepspeed()
    return place


def _initialize_deepspeed() -> None:
    """Start DeepSpeed's process group; on a CPU over gloo, without compiling its shared-memory collective."""
    if torch.cuda.is_available():
        import deepspeed

        deepspeed.init_distributed()
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is first imported
    import deepspeed

    # The optional operator would be compiled for minutes at the first start; gloo alone does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")


def gather_objects(item: Any) -> list:
    """The item of every rank, in rank order, on all of them; a collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [item]
    gathered: list = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, item)
    return gathered
