"""What a training will need, before it starts: steps, tokens, memory per GPU, hours. `DRY_RUN=1` calls it.

    python -m tools.footprint --gpus 64 -- --model_name_or_path ckpt/InternVL2_5-8B --meta_path MMPR-v1.1/meta.json \\
        --output_dir run --bf16 True --deepspeed zero_stage1_config.json --grad_checkpoint True

Takes the flags of `internvl_chat.train_mpo` behind `--`. The checkpoint need not be here if it is a published one.
Nothing is loaded: parameters are counted on the meta device, memory by formulas, those of a row's activations in
`internvl_chat.packed.memory`. Exit code 1: the run cannot start, since it does not fit or something is missing.
`--check`, by which `launch.sh` asks before it takes the GPUs, says nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from internvl_chat.adapters.quantization import four_bit_weights
from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.packed.memory import SECOND_ANSWER, StepLoad
from internvl_chat.records.meta import read_meta
from internvl_chat.training import adapt, freeze, parse_arguments
from tools.plan.model_sizes import Parameters, count_parameters, find_config, meta_model
from tools.plan.needs import Footprint, Plan, footprint, step_memory
from tools.plan.work import step_flops

GIB = 1024**3
USUAL_GPU_MEMORY = 80.0  # GiB, as A100 and H100 have
USABLE = 0.92  # of a GPU's memory: its driver, libraries and gaps between blocks take the rest; not measured on a GPU


def read_plan(gpus: int, args: MPOConfig, *, adapters: bool = False, rounded: int = 0) -> Plan:
    """The plan that the flags describe."""
    zero = {}
    if args.deepspeed:
        zero = json.loads(Path(str(args.deepspeed)).read_text()).get("zero_optimization", {})
    return Plan(
        gpus=gpus,
        stage=3 if args.fsdp else zero.get("stage", 0),
        offload=zero.get("offload_param", {}).get("device", "none") != "none",
        half=bool(args.bf16 or args.fp16),
        recompute=bool(args.gradient_checkpointing),
        auto=args.recomputes_by_need,
        accumulates=args.gradient_accumulation_steps > 1,
        reference=args.reference == "model" and args.loss_mixture().needs_reference,
        deepspeed=bool(args.deepspeed),
        adapters=adapters,
        waiting=args.offload_activations,
        rounded=rounded,
    )


def trained_parameters(model: InternVLChatModel, model_args: ModelArguments, args: MPOConfig) -> int:
    """How many parameters the flags leave trained."""
    freeze(model, model_args)
    adapt(model, model_args, args)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_rows(meta_path: str) -> int | None:
    """Rows of the mixture by the lengths in meta.json; None where it is not there or leaves one out."""
    if not Path(meta_path).is_file():
        return None
    specs = read_meta(meta_path)
    if any(spec.length is None for spec in specs):
        return None
    return sum(int(spec.repeat_time * (spec.length or 0) + 0.5) for spec in specs)


@dataclass(frozen=True)
class Estimate:
    """What is known of a run before it starts.

    Attributes:
        config: of the checkpoint.
        count: its parameters.
        trained: how many are trained.
        plan: how.
        row: the longest micro-batch.
        largest: what one process holds of it; all, unless GPUs share rows.
        usual: a usual row.
    """

    config: InternVLChatConfig
    count: Parameters
    trained: int
    plan: Plan
    row: StepLoad
    largest: StepLoad
    usual: StepLoad

    def recomputed(self, row: StepLoad, gpu_memory: float) -> int:
        """How many layers are computed again on a GPU of so many GiB."""
        memory = step_memory(self.config, self.count, self.trained, self.plan)
        if not self.plan.auto:
            return memory.layers if self.plan.recompute else 0
        stands = footprint(self.config, self.count, self.trained, self.plan, row, recomputed=memory.layers)
        beside = stands.total - memory.peak(row, memory.layers).total
        return memory.fewest_recomputed(row, USABLE * gpu_memory * GIB - beside)

    def need(self, row: StepLoad, recomputed: int) -> Footprint:
        """Memory of one GPU when so many layers are computed again."""
        return footprint(self.config, self.count, self.trained, self.plan, row, recomputed=recomputed)

    def seconds(self, row: StepLoad, own: argparse.Namespace) -> float:
        """Of one row on one GPU, by its FLOPs."""
        layers = step_memory(self.config, self.count, self.trained, self.plan).layers
        share = self.recomputed(row, own.gpu_memory) / layers
        flops = step_flops(self.count, self.config, row, recompute=share, reference=self.plan.reference)
        return flops / (own.tflops * 1e12)


def estimate(
    config: InternVLChatConfig,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: MPOConfig,
    own: argparse.Namespace,
) -> Estimate:
    """What the flags ask for; 4-bit weights, adapters and frozen parts on the meta device."""
    model = meta_model(config)
    rounded = four_bit_weights(model) if model_args.load_in_4bit else 0
    count = count_parameters(model)
    pairs, sharing = args.per_device_train_batch_size, args.sequence_parallel_size
    longest = data_args.max_seq_length + SECOND_ANSWER
    if args.tokens_per_device:
        pairs = max(1, -(-args.tokens_per_device // longest))
    tokens, tiles = pairs * longest, pairs * (data_args.max_dynamic_patch + 1)
    return Estimate(
        config,
        count,
        trained_parameters(model, model_args, args),
        read_plan(own.gpus, args, adapters=model_args.has_adapters, rounded=rounded),
        row=StepLoad(tokens, tiles),
        largest=StepLoad(-(-tokens // sharing), -(-tiles // sharing)),
        usual=StepLoad(own.tokens_per_pair, own.tiles_per_pair),
    )


def report(run: Estimate, data_args: DataArguments, args: MPOConfig, own: argparse.Namespace) -> tuple[list[str], bool]:
    """Lines for people, and whether the run fits."""
    count, plan = run.count, run.plan
    pairs, sharing = args.per_device_train_batch_size, args.sequence_parallel_size
    batch = pairs * args.gradient_accumulation_steps * own.gpus // sharing
    need = run.need(run.largest, run.recomputed(run.largest, own.gpu_memory))
    seconds = run.seconds(run.usual, own) * batch / own.gpus
    lines = [
        f"parameters: {count.total / 1e9:.2f} B (vision {count.vision / 1e9:.2f}, language {count.language / 1e9:.2f})"
        + (f", {plan.rounded / 1e9:.2f} B of them in 4 bits" if plan.rounded else ""),
        f"batch: {batch} pairs a step = {own.gpus} GPUs x {pairs} x {args.gradient_accumulation_steps}"
        + (f" / {sharing} GPUs that share a row" if sharing > 1 else ""),
        f"tokens: about {batch * run.usual.tokens:,} a step, taking {run.usual.tokens} tokens and {run.usual.tiles} "
        "tiles a pair",
        *memory_lines(run, need, own),
        f"time: {seconds:.1f} s a step, estimated from FLOPs at {own.tflops:.0f} TFLOP/s per GPU, not measured",
        steps_line(seconds, batch, data_args.meta_path, args),
    ]
    return lines, need.total <= USABLE * own.gpu_memory * GIB


def memory_lines(run: Estimate, need: Footprint, own: argparse.Namespace) -> list[str]:
    """Memory of a GPU at the longest row, of the node where it holds weights, and what recomputation is good for."""
    parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in asdict(need).items())
    lines = [
        f"memory per GPU: {need.total / GIB:.1f} GiB at the longest row of {run.row.tokens} tokens and "
        f"{run.row.tiles} tiles, of {own.gpu_memory:.0f} GiB ({parts})"
    ]
    if run.plan.offload:
        models = 2 if run.plan.reference else 1
        node = (12 * run.count.total + 2 * models * run.count.total) / own.gpus * own.gpus_per_node
        lines.append(f"memory per node: {node / GIB:.0f} GiB of pinned host memory for weights and optimizer")
    return lines + recomputation_lines(run, own)


def recomputation_lines(run: Estimate, own: argparse.Namespace) -> list[str]:
    """How many layers `auto` computes again; of True, whether all would fit without."""
    if not run.plan.recompute:
        return []
    layers = step_memory(run.config, run.count, run.trained, run.plan).layers
    if run.plan.auto:
        longest, usual = (run.recomputed(row, own.gpu_memory) for row in (run.largest, run.usual))
        return [f"computed again: {longest} of {layers} layers at the longest row, {usual} at the usual one"]
    whole = run.need(run.largest, 0).total
    if run.plan.waiting or whole > USABLE * own.gpu_memory * GIB:
        return []
    return [
        f"computed again: all {layers} layers, but {whole / GIB:.1f} GiB would do without: "
        "--grad_checkpoint False saves up to a quarter of the time, auto decides row by row"
    ]


def steps_line(seconds: float, batch: int, meta_path: str, args: MPOConfig) -> str:
    """Number of steps and their hours, where the lengths of the data sets are known."""
    rows = count_rows(meta_path)
    if rows is None:
        return f"steps: unknown until {meta_path} is here with the length of every data set"
    steps = args.max_steps if args.max_steps > 0 else -(-int(rows * args.num_train_epochs) // batch)
    return f"steps: {steps} for {rows:,} rows, {steps * seconds / 3600:.1f} h"


def missing_lines(model_args: ModelArguments, data_args: DataArguments, has_checkpoint: bool) -> list[str]:
    """What is not there, and how to get it."""
    lines = []
    if not has_checkpoint:
        path = Path(model_args.model_name_or_path)
        lines.append(f"missing: {path}; hf download OpenGVLab/{path.name} --local-dir {path}")
    for meta in (Path(path) for path in (data_args.meta_path, data_args.eval_meta_path) if path):
        if not meta.is_file():
            name = meta.parent.name
            get = f"python tools/prepare_mmpr.py --source OpenGVLab/{name} --out {meta.parent.parent}"
            lines.append(f"missing: {meta}; {get if name.startswith('MMPR') else 'name the meta.json of your mixture'}")
    return lines


def seen_gpu_memory() -> float | None:
    """GiB of the first GPU of this machine; None where none is seen, as on many login nodes."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / GIB


def tell(own: argparse.Namespace) -> None:
    """Print the estimate of the training whose flags stand in `own.flags`; `own` as of `tools/footprint.py`.

    Raises:
        SystemExit: with 1, where the run cannot start: something is missing, or it does not fit.
    """
    flags = own.flags[1:] if own.flags[:1] == ["--"] else own.flags
    model_args, data_args, args = parse_arguments(flags)
    config, has_checkpoint = find_config(model_args.model_name_or_path)
    known = own.gpu_memory or seen_gpu_memory()
    own.gpu_memory = known or USUAL_GPU_MEMORY
    run = estimate(config, model_args, data_args, args, own)
    lines, fits = report(run, data_args, args, own)
    missing = missing_lines(model_args, data_args, has_checkpoint)
    if not own.check:
        print("\n".join([*lines, *missing]))
    if not fits and (known or not own.check):
        cures = (
            "more GPUs, a higher ZeRO stage, LoRA (--use_llm_lora 16, also with --load_in_4bit True), "
            "--reference cache, or a shorter --max_seq_length"
        )
        sys.exit(f"this does not fit into {own.gpu_memory:.0f} GiB per GPU: take {cures}")
    if missing:
        sys.exit("\n".join(missing) if own.check else 1)
