"""Which process of the job this is: rank and world size from torchrun, from `srun`, or alone. No torch at its top.

Training and the pipelines ask here, so that a batch script without `srun`, which has Slurm's variables of the whole
allocation, is one process for all of them. transformers, accelerate and DeepSpeed read torchrun's variables (`RANK`,
`LOCAL_RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`); `initialize()`, first thing in an entry point of training,
derives them from Slurm's. Importing this file does nothing.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash


@dataclass(frozen=True)
class Process:
    """One of the processes that share a job.

    Attributes:
        rank: 0 <= rank < world_size.
        world_size: number of processes, >= 1; may differ from that of the run that is being resumed.
        run_id: the same string in all processes of one launch, another one in the next launch; "" where it is unknown.
        local_rank: index among the processes of this node; its GPU, where it sees those of the whole node.
    """

    rank: int = 0
    world_size: int = 1
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in 0..{self.world_size - 1}")

    def owns(self, key: str) -> bool:
        """Whether the item called `key` is in our share: split by hash, so the same for any order of the items."""
        return xxhash.xxh3_64_intdigest(key.encode()) % self.world_size == self.rank


def find_process(environment: Mapping[str, str] = os.environ) -> Process:
    """Read torchrun's variables, else Slurm's (inside an `srun` step of several tasks), else a single process.

    Raises:
        ValueError: torchrun's variables are there only in part.
    """
    if "RANK" in environment:
        if "WORLD_SIZE" not in environment:
            raise ValueError(_half_of_torchrun(environment, ["WORLD_SIZE"]))
        rank = int(environment["RANK"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
        return Process(rank, int(environment["WORLD_SIZE"]), _torchrun_id(environment), local_rank)
    # Only what srun starts has a step. A batch script has SLURM_PROCID and SLURM_NTASKS too, those of its allocation;
    # so has the shell of salloc, in a step of its own that counts one task.
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)
    if tasks > 1 and "SLURM_STEP_ID" in environment:
        run_id = f"{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}"
        local_rank = int(environment.get("SLURM_LOCALID", "0"))
        return Process(int(environment["SLURM_PROCID"]), tasks, run_id, local_rank)
    return Process(local_rank=int(environment.get("LOCAL_RANK", "0")))


def _torchrun_id(environment: Mapping[str, str]) -> str:
    """torchrun's own id; without one, what processes of one node share: the launcher that is their parent."""
    run_id = environment.get("TORCHELASTIC_RUN_ID", "none")
    if run_id != "none":
        return run_id
    one_node = environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"]) == environment["WORLD_SIZE"]
    return f"launcher-{os.getppid()}" if one_node else ""


def _half_of_torchrun(environment: Mapping[str, str], missing: list[str]) -> str:
    return f"RANK={environment['RANK']} is set but not {missing}: start with torchrun, or unset RANK"


def rendezvous(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host of rank 0 and TCP port at which the processes of a job of several meet.

    Raises:
        ValueError: torchrun's variables are there only in part.
    """
    if "RANK" in environment:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise ValueError(_half_of_torchrun(environment, missing))
        return environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    address = environment.get("MASTER_ADDR") or first_slurm_host(environment["SLURM_STEP_NODELIST"])
    return address, int(environment.get("MASTER_PORT") or slurm_port(job, step))


def first_slurm_host(node_list: str) -> str:
    """First host of a Slurm node list such as `n[0-3]`, by `scontrol show hostnames`."""
    hosts = subprocess.run(["scontrol", "show", "hostnames", node_list], check=True, capture_output=True, text=True)
    return hosts.stdout.split()[0]


def slurm_port(job_id: int, step_id: int) -> int:
    """A rendezvous port that all tasks of a step agree on and two steps rarely share.

    In 10000..29999, below the ports that Linux gives to outgoing connections.
    """
    return 10000 + (job_id * 16 + step_id) % 20000


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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


def export_process(process: Process, address: str, port: int) -> None:
    """Write a process into its torchrun variables."""
    values: dict[str, int | str] = {"MASTER_ADDR": address, "MASTER_PORT": port}
    values |= {"RANK": process.rank, "LOCAL_RANK": process.local_rank, "WORLD_SIZE": process.world_size}
    os.environ.update({name: str(value) for name, value in values.items()})


def initialize(use_deepspeed: bool = False) -> Process:
    """Make this process ready for transformers' TrainingArguments: variables, device, process group.

    Args:
        use_deepspeed: DeepSpeed will train; it wants a process group even for a single process.

    Returns:
        This process.
    """
    import torch

    process = find_process(os.environ)
    if torch.cuda.is_available():
        # accelerate and DeepSpeed take LOCAL_RANK for the index of the GPU
        process = replace(process, local_rank=device_index(process.local_rank, torch.cuda.device_count()))
        torch.cuda.set_device(process.local_rank)
    if process.world_size > 1:
        export_process(process, *rendezvous(os.environ))
    elif use_deepspeed:
        export_process(process, "127.0.0.1", free_port())
    if use_deepspeed:
        _initialize_deepspeed(on_gpu=torch.cuda.is_available())
    return process


def _initialize_deepspeed(on_gpu: bool) -> None:
    """Start DeepSpeed's process group; on a CPU over gloo, without compiling its shared-memory collective."""
    if on_gpu:
        import deepspeed

        deepspeed.init_distributed()
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is first imported
    import deepspeed

    from internvl_chat.model.upstream import __compatible_ops__

    # The optional operator would be compiled for minutes at the first start; gloo alone does the same.
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")


def gather_objects(item: Any) -> list:
    """The item of every rank, in rank order, on all of them; a collective."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [item]
    gathered: list = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, item)
    return gathered


def leave_ranks(code: int) -> None:
    """End a process that shares a process group with others, at once and with this exit code; else do nothing.

    A thread of gloo may still hold the tensors of the last collective. If it lets go of them while the interpreter is
    being taken down, the process aborts, and a run that has ended well has exit code 134 (pytorch PR 179291). So what
    `multiprocessing` does in its processes is done here: threads are waited for, exit functions run, nothing is taken
    down.
    """
    dist = getattr(sys.modules.get("torch"), "distributed", None)
    if dist is None or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
