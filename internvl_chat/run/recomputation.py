"""`--grad_checkpoint auto`: of the policy's layers, as many are computed again as the memory of this row demands.

Every layer that keeps what its backward pass needs saves a quarter of its matrix products. Most rows are far shorter
than the longest one, so the choice is made for each micro-batch, by the formulas of `packed.memory` and what is free at
that moment. Gradients are the same either way.

Where ranks gather the weights of a layer together (ZeRO-3, FSDP) or share a row, a rank that computed a layer again
which others keep would wait for them forever. There all ranks choose once, alike, for the longest row that may come.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

import psutil
import torch

from internvl_chat.model import InternVLChatModel
from internvl_chat.model.upstream import GradientCheckpointingLayer
from internvl_chat.packed.memory import StepLoad, StepMemory, Weights
from internvl_chat.run.process import gather_objects

logger = logging.getLogger(__name__)

USED = 0.9  # of what is free: formulas are estimates, and a GPU's memory has gaps
MOMENTS = 8  # bytes of AdamW's two per trained weight


class Recomputation:
    """Switches the layers of a policy between keeping and computing again.

    Attributes:
        layers: of the vision tower, then of the language model, the order in which they are computed again.
        number: how many are, as chosen last.
    """

    def __init__(
        self,
        model: InternVLChatModel,
        *,
        half: bool,
        alike_for: StepLoad | None = None,
        free_bytes: Callable[[], float] | None = None,
    ) -> None:
        """Look at the policy, unwrapped.

        Args:
            model: with gradient checkpointing enabled before the first row.
            half: products run in 2-byte numbers.
            alike_for: the longest row, where ranks have to choose alike; None where each row decides.
            free_bytes: that a micro-batch may take; None asks the GPU, or the host where there is none.
        """
        towers = model.vision_model, model.language_model
        self.layers = [m for tower in towers for m in tower.modules() if isinstance(m, GradientCheckpointingLayer)]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.memory = StepMemory(model.config, weights_of(model, half=half))
        self.alike_for = alike_for
        self.free_bytes = free_bytes or usual_free_bytes(self.parameters[0].device)
        self.number: int | None = None
        self.chosen: list[int] = []

    def choose(self, load: StepLoad, *, has_moments: bool) -> None:
        """Switch the layers for the micro-batch to come; a collective the first time that ranks choose alike.

        Args:
            load: its sizes.
            has_moments: the optimizer has taken a step, so that its state is in memory.
        """
        if self.alike_for is None:
            self._switch(self._needed(load, has_moments=has_moments))
        elif self.number is None:
            mine = self._needed(self.alike_for, has_moments=has_moments)
            self._switch(max(gather_objects(mine)))
            logger.info("%d of %d layers are computed again, for the longest row", self.number, len(self.layers))
        self.chosen.append(self.number or 0)

    def mean(self) -> float:
        """How many layers were computed again on this rank, on average since the last call."""
        chosen, self.chosen = self.chosen or [self.number or 0], []
        return sum(chosen) / len(chosen)

    def _needed(self, load: StepLoad, *, has_moments: bool) -> int:
        trained = sum(parameter.numel() for parameter in self.parameters)
        free = USED * self.free_bytes() - (0 if has_moments else MOMENTS * trained)
        stand = any(parameter.grad is not None for parameter in self.parameters)  # of micro-batches before this one
        memory = replace(self.memory, gradients=0.0) if stand else self.memory
        return memory.fewest_recomputed(load, free)

    def _switch(self, number: int) -> None:
        self.number = number
        for index, layer in enumerate(self.layers):
            layer.gradient_checkpointing = index < number


def weights_of(model: InternVLChatModel, *, half: bool) -> Weights:
    """The parameters of a model, whole also where ZeRO-3 holds only shards of them."""

    def count(module: torch.nn.Module, *, trained: bool = False) -> int:
        wanted = (p for p in module.parameters() if p.requires_grad or not trained)
        return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in wanted)

    return Weights(
        vision=count(model.vision_model),
        projector=count(model.mlp1),
        language=count(model.language_model),
        trained=count(model, trained=True),
        stored=model.dtype.itemsize,
        half=half,
        head=any(parameter.requires_grad for parameter in model.get_output_embeddings().parameters()),
    )


def usual_free_bytes(device: torch.device) -> Callable[[], float]:
    """Function for the bytes that this process may still take: of its GPU, or its share of the host's memory."""

    def of_gpu() -> float:
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused

    def of_host() -> float:
        return psutil.virtual_memory().available / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    return of_gpu if device.type == "cuda" else of_host
