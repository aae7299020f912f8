"""Which share of the work is ours: rank and number of workers from torchrun, from srun, or alone. No torch."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import xxhash


@dataclass(frozen=True)
class Worker:
    """One of the processes that share a run.

    Attributes:
        rank: 0 <= rank < world_size.
        world_size: number of workers, >= 1; may differ from that of the run that is being resumed.
        run_id: the same string in all workers of one launch, another one in the next launch; "" where it is unknown.
    """

    rank: int = 0
    world_size: int = 1
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in 0..{self.world_size - 1}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Worker:
        """This process among the tasks of torchrun or srun, or alone."""
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]), _torchrun_id(environment))
        if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
            run_id = f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}"
            return cls(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]), run_id)
        return cls()

    def owns(self, key: str) -> bool:
        """Whether the item called `key` is in our share: split by hash, so the same for any order of the items."""
        return xxhash.xxh3_64_intdigest(key.encode()) % self.world_size == self.rank


def _torchrun_id(environment: Mapping[str, str]) -> str:
    """torchrun's own id; without one, what processes of one node share: the launcher that is their parent."""
    run_id = environment.get("TORCHELASTIC_RUN_ID", "none")
    if run_id != "none":
        return run_id
    one_node = environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"]) == environment["WORLD_SIZE"]
    return f"launcher-{os.getppid()}" if one_node else ""
