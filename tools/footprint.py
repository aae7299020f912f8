"""What a training will need, before it starts: steps, tokens, memory per GPU, hours. `DRY_RUN=1` calls it.

    python -m tools.footprint --gpus 64 -- --model_name_or_path ckpt/InternVL2_5-8B --meta_path MMPR-v1.1/meta.json \\
        --output_dir run --bf16 True --deepspeed zero_stage1_config.json --grad_checkpoint True

Takes the flags of `internvl_chat.train_mpo` behind `--`. The checkpoint need not be here if it is a published one.
Nothing is loaded: parameters are counted on the meta device, memory by the formulas below. Exit code 1: the run cannot
start, since it does not fit or something is missing. `--check`, by which `launch.sh` asks before it takes the GPUs,
says nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from internvl_chat.adapters.quantization import BYTES_PER_WEIGHT, four_bit_weights
from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.model import InternVLChatConfig, InternVLChatModel
from internvl_chat.packed.logps import CHUNK_SIZE
from internvl_chat.records.meta import read_meta
from internvl_chat.run.entry import Parser, enter
from internvl_chat.train_mpo import adapt, freeze, parse_arguments
from tools.plan.model_sizes import Parameters, count_parameters, find_config, meta_model
from tools.plan.work import StepLoad, expert_parameters, expert_width, step_flops

GIB = 1024**3
USUAL_GPU_MEMORY = 80.0  # GiB, as A100 and H100 have
SECOND_ANSWER = 1024  # tokens of the longest row's other answer; its prompt and first answer fill --max_seq_length
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
        recompute: every layer is computed again in the backward pass.
        reference: a second model is in memory.
        deepspeed: DeepSpeed trains; else weights that are trained are float32, under autocast with `half`.
        adapters: only LoRA adapters are trained, so that the base may have 2-byte numbers in any case.
        waiting: with `recompute`, the inputs of the layers wait in the memory of the node.
        rounded: how many weights of the base have 4 bits.
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


def footprint(config: InternVLChatConfig, count: Parameters, trained: int, plan: Plan, row: StepLoad) -> Footprint:
    """Memory of one GPU by the parts that users can do something about.

    Args:
        config: of the checkpoint.
        count: its parameters, without adapters.
        trained: how many parameters are trained.
        plan: how.
        row: the largest micro-batch.
    """
    number = 2 if plan.half and (plan.deepspeed or plan.adapters) else 4  # bytes of a stored weight
    shards = plan.gpus
    whole = (count.total - plan.rounded) * number + plan.rounded * BYTES_PER_WEIGHT
    held = 0.0 if plan.offload else whole / (shards if plan.stage == 3 else 1)
    # float32 master weights beside half ones, a float32 copy of its part beside float32 ones, and Adam's two moments
    optimizer = trained * (12 if plan.deepspeed else 8) / (shards if plan.stage else 1)
    return Footprint(
        weights=held + (trained * number if plan.adapters else 0.0),
        gradients=trained * number / (shards if plan.stage >= 2 else 1),
        optimizer=0.0 if plan.offload else optimizer,
        reference=(held if plan.deepspeed else whole) if plan.reference else 0.0,
        activations=activations(config, plan, row),
        lm_head=lm_head(config, plan, row),
        buffers=buffers(config, count, trained, plan, number),
    )


def activations(config: InternVLChatConfig, plan: Plan, row: StepLoad) -> float:
    """Bytes that the backward pass keeps of the layers, in the vision tower and the language model.

    Recomputing keeps the input of each layer, and one whole layer at a time. Per token a layer keeps about 14 times its
    width in the language model, whose norms and rotary embeddings keep copies, 8 times in InternViT, and of its MLP's
    width 4 times where that is gated, else 3 times; `tests/tools/test_footprint.py` counts them.
    """
    size = 2 if plan.half else 4
    language, vision = config.llm_config, config.vision_config
    patches = row.tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
    parts = ((row.tokens, language, 14, 4), (patches, vision, 8, 3))
    kept = [tokens * (own * part.hidden_size + mlp * mlp_width(part)) * size for tokens, part, own, mlp in parts]
    inputs = [tokens * part.hidden_size * size for tokens, part, *_ in parts]
    layers = [part.num_hidden_layers for _, part, *_ in parts]
    if not plan.recompute:
        return float(sum(one * count for one, count in zip(kept, layers, strict=True)))
    # The two backward passes follow each other, so the working set is that of the larger.
    held = 0 if plan.waiting else sum(one * count for one, count in zip(inputs, layers, strict=True))
    return float(held + max(kept))


def mlp_width(config: Any) -> int:
    """Width of the MLPs that a token passes in a layer: all of one, or the chosen experts'."""
    if getattr(config, "num_experts", 0):
        return config.num_experts_per_tok * expert_width(config)
    return config.intermediate_size


def lm_head(config: InternVLChatConfig, plan: Plan, row: StepLoad) -> float:
    """Bytes of the logits of one chunk in the backward pass, and of the float32 sum of the head's gradient."""
    vocabulary, width = config.llm_config.vocab_size, config.llm_config.hidden_size
    logits = min(CHUNK_SIZE, row.tokens) * vocabulary * (10 if plan.half else 8)
    return logits + (0.0 if plan.adapters else vocabulary * width * 4.0)


def buffers(config: InternVLChatConfig, count: Parameters, trained: int, plan: Plan, number: int) -> float:
    """Bytes of communication: DDP's buckets, ZeRO's buckets, or what ZeRO-3 holds gathered of both models."""
    if plan.stage == 3:
        experts, _ = expert_parameters(config.llm_config)  # two tensors, gathered whole
        live = min(max(LIVE_PARAMETERS, experts), count.total)
        return float(live * number * (2 if plan.reference else 1))
    if plan.stage:
        return float(3 * min(ZERO_BUCKET, trained) * number)  # two for reducing while computing, one for gathering
    autocast = 2 * count.total if plan.half and number == 4 else 0  # copies in half precision
    return autocast + (4.0 * trained if plan.gpus > 1 else 0.0)


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


def report(
    config: InternVLChatConfig,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: MPOConfig,
    own: argparse.Namespace,
) -> tuple[list[str], bool]:
    """Lines for people, and whether the run fits."""
    model = meta_model(config)
    rounded = four_bit_weights(model) if model_args.load_in_4bit else 0
    plan = read_plan(own.gpus, args, adapters=model_args.has_adapters, rounded=rounded)
    count = count_parameters(model)
    pairs = args.per_device_train_batch_size
    largest = StepLoad(pairs * (data_args.max_seq_length + SECOND_ANSWER), pairs * (data_args.max_dynamic_patch + 1))
    sharing = args.sequence_parallel_size
    held = StepLoad(-(-largest.tokens // sharing), -(-largest.tiles // sharing))
    need = footprint(config, count, trained_parameters(model, model_args, args), plan, held)
    batch = pairs * args.gradient_accumulation_steps * own.gpus // sharing
    usual = StepLoad(own.tokens_per_pair, own.tiles_per_pair)
    work = step_flops(count, config, usual, recompute=plan.recompute, reference=plan.reference)
    seconds = work * batch / own.gpus / (own.tflops * 1e12)
    parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in asdict(need).items())
    lines = [
        f"parameters: {count.total / 1e9:.2f} B (vision {count.vision / 1e9:.2f}, language {count.language / 1e9:.2f})"
        + (f", {rounded / 1e9:.2f} B of them in 4 bits" if rounded else ""),
        f"batch: {batch} pairs a step = {own.gpus} GPUs x {pairs} x {args.gradient_accumulation_steps}"
        + (f" / {sharing} GPUs that share a row" if sharing > 1 else ""),
        f"tokens: about {batch * usual.tokens:,} a step, taking {usual.tokens} tokens and {usual.tiles} tiles a pair",
        f"memory per GPU: {need.total / GIB:.1f} GiB at the longest row of {largest.tokens} tokens and {largest.tiles} "
        f"tiles, of {own.gpu_memory:.0f} GiB ({parts})",
    ]
    if plan.offload:
        models = 2 if plan.reference else 1
        node = (12 * count.total + 2 * models * count.total) / own.gpus * own.gpus_per_node
        lines.append(f"memory per node: {node / GIB:.0f} GiB of pinned host memory for weights and optimizer")
    lines.append(
        f"time: {seconds:.1f} s a step, estimated from FLOPs at {own.tflops:.0f} TFLOP/s per GPU, not measured"
    )
    rows = count_rows(data_args.meta_path)
    if rows is None:
        lines.append(f"steps: unknown until {data_args.meta_path} is here with the length of every data set")
    else:
        steps = args.max_steps if args.max_steps > 0 else -(-int(rows * args.num_train_epochs) // batch)
        lines.append(f"steps: {steps} for {rows:,} rows, {steps * seconds / 3600:.1f} h")
    return lines, need.total <= own.gpu_memory * GIB


def missing_lines(model_args: ModelArguments, data_args: DataArguments, has_checkpoint: bool) -> list[str]:
    """What is not there, and how to get it."""
    lines = []
    if not has_checkpoint:
        path = Path(model_args.model_name_or_path)
        lines.append(f"missing: {path}; hf download OpenGVLab/{path.name} --local-dir {path}")
    for meta in (Path(path) for path in (data_args.meta_path, data_args.eval_meta_path) if path):
        if not meta.is_file():
            name = meta.parent.name
            get = f"hf download OpenGVLab/{name} --repo-type dataset --local-dir {meta.parent}"
            lines.append(f"missing: {meta}; {get if name.startswith('MMPR') else 'name the meta.json of your mixture'}")
    return lines


def seen_gpu_memory() -> float | None:
    """GiB of the first GPU of this machine; None where none is seen, as on many login nodes."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / GIB


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gpus", type=int, default=1, help="processes of the run")
    add("--gpus_per_node", type=int, default=8)
    add("--gpu_memory", type=float, help="GiB of one GPU; default: of the one that is seen here, else 80")
    add("--check", action="store_true", help="say nothing unless the run cannot start; memory only of a known GPU")
    add(
        "--tflops", type=float, default=400.0, help="that a GPU reaches; default 400: 40 %% of an H100's dense bfloat16"
    )
    add("--tokens_per_pair", type=int, default=2700, help="usual packed tokens: an assumption, change it for your data")
    add("--tiles_per_pair", type=int, default=7, help="usual tiles: likewise")
    add("flags", nargs=argparse.REMAINDER, help="behind --: those of internvl_chat.train_mpo")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the estimate; SystemExit with 1 where the run cannot start: something is missing, or it does not fit."""
    own = build_parser().parse_args(argv)
    flags = own.flags[1:] if own.flags[:1] == ["--"] else own.flags
    model_args, data_args, args = parse_arguments(flags)
    config, has_checkpoint = find_config(model_args.model_name_or_path)
    known = own.gpu_memory or seen_gpu_memory()
    own.gpu_memory = known or USUAL_GPU_MEMORY
    lines, fits = report(config, model_args, data_args, args, own)
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


if __name__ == "__main__":
    enter(main)
