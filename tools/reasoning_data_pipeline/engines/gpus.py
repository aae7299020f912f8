"""Which tasks of a job run an engine, and on which GPUs: tasks are grouped `tp` by `tp`, the first of a group leads.

    srun --ntasks=16 ... --tp 8    tasks 0 and 8 run an engine on 8 GPUs each, the other 14 exit at once

GPUs come from what the task may see (CUDA_VISIBLE_DEVICES, or all that the driver shows), never from its rank alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from internvl_chat.run.process import Process, find_process

logger = logging.getLogger(__name__)


def engine_worker(task: Process, tp: int) -> Process | None:
    """The place of a task's engine among the engines; None for a task that leads no group.

    A task that is alone leads a group of any size.

    Raises:
        ValueError: the tasks do not make whole groups.
    """
    if tp < 1:
        raise ValueError(f"--tp must be at least 1, not {tp}")
    if task.world_size == 1:
        return task
    if task.world_size % tp:
        raise ValueError(
            f"{task.world_size} tasks do not make groups of --tp {tp}: start a multiple of {tp} tasks, or change --tp"
        )
    if task.rank % tp:
        return None
    return Process(task.rank // tp, task.world_size // tp, task.run_id, task.local_rank)


def visible_devices(environment: Mapping[str, str], device_count: int) -> list[str]:
    """Names of the GPUs that this task may see: those of CUDA_VISIBLE_DEVICES, else 0 .. device_count - 1."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(device_count)]
    return [name.strip() for name in listed.split(",") if name.strip()]


def group_devices(visible: Sequence[str], local: int, tp: int) -> list[str]:
    """The GPUs of the group that a task leads; [] where it sees none.

    Exactly `tp` visible GPUs are the group's own (bound by the launcher). Of more, shared by the tasks of the node, the
    group takes those from the leader's local rank on.

    Raises:
        ValueError: it sees too few, or its group does not start where a group starts on a node.
    """
    if visible and local % tp == 0 and len(visible) == tp:
        return list(visible)
    if visible and (local % tp or local + tp > len(visible)):
        raise ValueError(
            f"task {local} of this node leads a group of --tp {tp} but sees GPUs {', '.join(visible)} only: "
            "give every task all GPUs of the node (no --gpus-per-task), one task per GPU, and fill node after node"
        )
    return list(visible[local : local + tp])


def claim_devices(tp: int) -> None:
    """Narrow CUDA_VISIBLE_DEVICES to the GPUs of this task's group; before anything touches a GPU."""
    import torch

    visible = visible_devices(os.environ, torch.cuda.device_count())
    devices = group_devices(visible, find_process().local_rank, tp)
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        logger.info("this task runs on GPU %s of the %d that this task sees", ",".join(devices), len(visible))
