"""What a training needs of each GPU: memory by parts. `tools.footprint` prints it.

Weights, optimizer and buffers follow the ZeRO paper (arXiv 1910.02054, section 3.1) and DeepSpeed's settings; what a
row adds is in `internvl_chat.packed.memory`. `benchmarks/bench_footprint.py` holds both against steps on tensors that
have sizes only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from internvl_chat.adapters.quantization import BYTES_PER_WEIGHT
from internvl_chat.model import InternVLChatConfig
from internvl_chat.packed.memory import StepLoad, StepMemory, Weights
from tools.plan.model_sizes import Parameters
from tools.plan.work import expert_parameters

LIVE_PARAMETERS = 1_000_000_000  # that ZeRO-3 keeps gathered, DeepSpeed's stage3_max_live_parameters
ZERO_BUCKET = 500_000_000  # DeepSpeed's reduce_bucket_size, in numbers


@dataclass(frozen=True)
class Plan:
    """How a model is trained, as far as memory goes.

    Attributes:
        gpus: processes of the run, one GPU each.
        stage: of ZeRO; 3 with FSDP, 0 with neither.
        offload: ZeRO-3 keeps weights and optimizer in the memory of the node.
        half: 2-byte numbers in the forward pass.
        recompute: layers are computed again in the backward pass: all of them, or with `auto` those that have to be.
        reference: a second model is in memory.
        deepspeed: DeepSpeed trains; else weights that are trained are float32, under autocast with `half`.
        adapters: only LoRA adapters are trained, so that the base may have 2-byte numbers in any case.
        waiting: with `recompute`, the inputs of the layers wait in the memory of the node.
        rounded: how many weights of the base have 4 bits.
        auto: with `recompute`, as many layers as the memory of the GPU demands.
        accumulates: gradients of earlier micro-batches stand through the whole step.
    """

    gpus: int
    stage: int
    offload: bool
    half: bool
    recompute: bool
    reference: bool
    deepspeed: bool
    adapters: bool = False
    waiting: bool = False
    rounded: int = 0
    auto: bool = False
    accumulates: bool = False

    @property
    def number(self) -> int:
        """Bytes of a stored weight."""
        return 2 if self.half and (self.deepspeed or self.adapters) else 4


@dataclass(frozen=True)
class Footprint:
    """Bytes on one GPU at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    lm_head: float
    buffers: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def footprint(
    config: InternVLChatConfig,
    count: Parameters,
    trained: int,
    plan: Plan,
    row: StepLoad,
    *,
    recomputed: int | None = None,
) -> Footprint:
    """Memory of one GPU by the parts that users can do something about.

    Args:
        config: of the checkpoint.
        count: its parameters, without adapters.
        trained: how many parameters are trained.
        plan: how.
        row: the largest micro-batch.
        recomputed: how many layers are computed again; None: all or none, as the plan says.
    """
    number, shards = plan.number, plan.gpus
    whole = (count.total - plan.rounded) * number + plan.rounded * BYTES_PER_WEIGHT
    held = 0.0 if plan.offload else whole / (shards if plan.stage == 3 else 1)
    # float32 master weights beside half ones, a float32 copy of its part beside float32 ones, and Adam's two moments
    optimizer = trained * (12 if plan.deepspeed else 8) / (shards if plan.stage else 1)
    memory = step_memory(config, count, trained, plan)
    if recomputed is None:
        recomputed = memory.layers if plan.recompute else 0
    moment = memory.peak(row, recomputed)
    return Footprint(
        weights=held + (trained * number if plan.adapters else 0.0),
        gradients=moment.gradients,
        optimizer=0.0 if plan.offload else optimizer,
        reference=(held if plan.deepspeed else whole) if plan.reference else 0.0,
        activations=moment.activations,
        lm_head=moment.lm_head,
        buffers=moment.copies + buffers(config, count, trained, plan),
    )


def step_memory(config: InternVLChatConfig, count: Parameters, trained: int, plan: Plan) -> StepMemory:
    """What a step takes beside what stands. Gradients stand too, unless they come anew with every backward pass."""
    weights = Weights(
        count.vision, count.projector, count.language, trained, plan.number, half=plan.half, head=not plan.adapters
    )
    stands = bool(plan.deepspeed or plan.stage or plan.adapters or plan.accumulates)
    gradients = trained * plan.number / (plan.gpus if plan.stage >= 2 else 1)
    return StepMemory(config, weights, gradients if stands else None, waiting=plan.waiting and plan.recompute)


def buffers(config: InternVLChatConfig, count: Parameters, trained: int, plan: Plan) -> float:
    """Bytes of communication: DDP's buckets, ZeRO's buckets, or what ZeRO-3 holds gathered of both models."""
    if plan.stage == 3:
        experts, _ = expert_parameters(config.llm_config)  # two tensors, gathered whole
        live = min(max(LIVE_PARAMETERS, experts), count.total)
        return float(live * plan.number * (2 if plan.reference else 1))
    if plan.stage:  # two for reducing while computing, one for gathering
        return float(3 * min(ZERO_BUCKET, trained) * plan.number)
    return 4.0 * trained if plan.gpus > 1 else 0.0
