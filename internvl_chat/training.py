"""A training from its flags to its export: parse, load, data, train, export. `train_mpo` is its command.

A run whose output folder holds checkpoints continues from the last one, unless `--overwrite_output_dir True` says
otherwise.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase, set_seed

from internvl_chat.adapters.lora import add_adapters, lora_config
from internvl_chat.adapters.quantization import check_four_bits, load_four_bits
from internvl_chat.arguments import (
    DataArguments,
    ModelArguments,
    MPOConfig,
    check_evaluation,
    check_held_out,
    check_sharding,
    resolve_deepspeed_config,
    settle_reference,
)
from internvl_chat.checkpoint.files import CHECKSUMS, damage, finish_publishing
from internvl_chat.checkpoint.lock import locked
from internvl_chat.checkpoint.names import local_checkpoint
from internvl_chat.checkpoint.output import check_apart, check_writable, writing
from internvl_chat.checkpoint.resume import last_whole_checkpoint
from internvl_chat.config_file import parse_flags, with_config
from internvl_chat.critic.dataset import JudgedDataset
from internvl_chat.critic.trainer import StepTrainer
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.order import EpochSampler, StepSampler, train_sampler
from internvl_chat.data.preflight import preflight
from internvl_chat.model import (
    InternVLChatConfig,
    InternVLChatModel,
    load_config,
    load_model,
    load_tokenizer,
)
from internvl_chat.packed.sequence_parallel import check_ranks
from internvl_chat.publishing.trained import take_push
from internvl_chat.reference.adapter import AdapterReference
from internvl_chat.reference.frozen import CachedReference, Reference
from internvl_chat.reference.identity import open_cache, reference_settings
from internvl_chat.run import process
from internvl_chat.run.held_out import HeldOut
from internvl_chat.run.process import gather_objects
from internvl_chat.run.provenance import RunRecord
from internvl_chat.run.recipe import planned_steps
from internvl_chat.run.signals import StopOnSignal
from internvl_chat.run.starts import begin, record_settings
from internvl_chat.run.trainer import MultimodalDPOTrainer

logger = logging.getLogger(__name__)


def train(argv: Sequence[str], held_out: str = "") -> None:
    """Run a training.

    Args:
        argv: flags without the program's name, the path of a YAML or JSON file of them in front.
        held_out: "module:function" that opens --eval_prompts, which engines and answer checks outside the library ask
            and judge; it is not imported without that flag.

    Raises:
        ValueError, FileNotFoundError: a flag, the checkpoint or the mixture is not usable; said before the first step.
        FloatingPointError: the loss is not finite; names the rows.
        Finding: answers to --eval_prompts got worse.
    """
    with StopOnSignal() as stop:
        run(list(argv), stop, held_out)


def run(argv: list[str], stop: StopOnSignal, held_out: str = "") -> None:
    """`train`, with the signals taken over."""
    process.initialize(use_deepspeed=wants_deepspeed(argv))
    groups = parse_arguments(argv)
    mpo_args = groups[2]
    set_up_logging(mpo_args)
    check_ranks(mpo_args.sequence_parallel_size, mpo_args.world_size)
    check_apart(mpo_args.output_dir, groups[0].model_name_or_path)
    check_writable(mpo_args.output_dir)
    with locked(Path(mpo_args.output_dir), mpo_args.process_index):
        run_locked(groups, stop, held_out)


def run_locked(groups: tuple[ModelArguments, DataArguments, MPOConfig], stop: StopOnSignal, held_out: str = "") -> None:
    """Load, train, export and evaluate, unless this run is finished already; the output folder is this run's alone."""
    model_args, data_args, mpo_args = groups
    publication = take_push(mpo_args, model_args.model_name_or_path)
    resume_point = find_resume_point(mpo_args)
    source = local_checkpoint(model_args.model_name_or_path)
    config = run_config(source, model_args, data_args)
    tokenizer = load_tokenizer(source, model_max_length=data_args.max_seq_length)
    # The data first: a wrong path in meta.json should not cost the loading of 78B parameters.
    paths = (data_args.meta_path, data_args.eval_meta_path)
    train_dataset, eval_dataset = (
        build_dataset(path, tokenizer, data_args, mpo_args, config.num_image_token) if path else None for path in paths
    )
    questions = open_questions(groups, tokenizer, train_dataset, held_out) if mpo_args.eval_prompts else None
    start = begin(groups, resume_point, source=source, dataset=train_dataset)
    if start.is_finished:
        logger.info(
            "%s: this run is finished, at step %d; nothing is changed. More --num_train_epochs or --max_steps go on, "
            "--overwrite_output_dir True starts anew",
            *(mpo_args.output_dir, start.step),
        )
    else:
        record_settings(groups, train_dataset, start)
        folder, is_first = Path(mpo_args.output_dir), mpo_args.process_index == 0
        record = RunRecord(folder, step=start.step, processes=mpo_args.world_size, is_writer=is_first)
        data = {"processing_class": tokenizer, "train_dataset": train_dataset, "eval_dataset": eval_dataset}
        data["held_out"] = questions
        if train_dataset is not None:
            if isinstance(train_dataset, JudgedDataset):
                config.critic = train_dataset.way_of_asking
            with record.stage("order of the data"):
                data["sampler"] = plan_steps(train_dataset, mpo_args, start.groups)
        with record.stage("models and reference"):
            trainer = build_trainer(groups, source, config, callbacks=[stop], **data)
        trainer.made_of = start.made_of
        with record.stage("training"):
            result = trainer.train(resume_from_checkpoint=resume_point)
        stop.leave()
        trainer.leave()
        with record.stage("export"):
            export(trainer, result.metrics)
        if trainer.eval_dataset is not None:
            with record.stage("evaluation"):
                trainer.save_metrics("eval", trainer.evaluate())
    if publication and mpo_args.process_index == 0:
        logger.info("published: %s", publication.push(Path(mpo_args.output_dir)))


def plan_steps(dataset: MixtureDataset, args: MPOConfig, in_force: str | None) -> EpochSampler | StepSampler:
    """The micro-batches of this rank, as many in a step as the plan says; `in_force` as of `train_sampler`."""
    sharing = args.sequence_parallel_size
    ranks = (args.process_index // sharing, args.world_size // sharing)
    sampler = train_sampler(dataset, args, *ranks, in_force=in_force)
    if isinstance(sampler, StepSampler) and args.tokens_per_device:
        args.take_micro_batches(sampler.micro_batches)
    return sampler


def open_questions(
    groups: tuple[ModelArguments, DataArguments, MPOConfig],
    tokenizer: PreTrainedTokenizerBase,
    dataset: MixtureDataset | None,
    opener: str,
) -> HeldOut:
    """What --eval_prompts names, read and checked; `opener` as `held_out` of `train`.

    Raises:
        ValueError, FileNotFoundError: the file, a row of it or a flag is not usable.
    """
    if not opener:
        raise ValueError("--eval_prompts needs who asks and judges: start `python -m internvl_chat.train_mpo`")
    args = groups[2]
    steps = planned_steps(args, len(dataset or []), args.world_size // args.sequence_parallel_size)
    check_held_out(args, steps)
    every = args.eval_steps if args.eval_steps >= 1 else math.ceil(args.eval_steps * steps)
    questions: HeldOut = resolve_name(opener)(groups, tokenizer, dataset, math.ceil(steps / every))
    return questions


def build_trainer(
    groups: tuple[ModelArguments, DataArguments, MPOConfig], source: Path, config: InternVLChatConfig, **kwargs: Any
) -> MultimodalDPOTrainer:
    """The trainer of a run, with its models loaded and a cache of the reference filled.

    Args:
        groups: the flags.
        source: local folder of the checkpoint.
        config: of the checkpoint, with what the flags changed in it.
        kwargs: tokenizer, data sets and callbacks, as `MultimodalDPOTrainer` takes them.
    """
    model_args, data_args, mpo_args = groups
    load_again = partial(load, source, config, model_args, mpo_args, normalize_type=data_args.normalize_type)
    policy = load_again()
    freeze(policy, model_args)
    adapt(policy, model_args, mpo_args)
    kind = mpo_args.reference if mpo_args.loss_mixture().needs_reference else None
    reference: Reference | None = AdapterReference(policy) if kind == "adapter" else None
    opened = None
    if kind == "cache":
        dtype = number_format(model_args, mpo_args)
        settings = reference_settings(config, model_args, data_args, mpo_args, dtype=dtype)
        datasets = [*filter(None, (kwargs["train_dataset"], kwargs["eval_dataset"]))]
        opened = open_cache(source, settings, mpo_args, datasets)
        reference = CachedReference(opened.cache)
    needs_model = kind == "model" or (opened is not None and not opened.is_filled)
    model = load_again() if needs_model else None
    trainer_class = StepTrainer if mpo_args.judges_steps else MultimodalDPOTrainer
    trainer = trainer_class(policy, model, mpo_args, source=source, reference=reference, **kwargs)
    if opened is not None and needs_model:
        trainer.cache_reference(opened.cache, opened.data)
    return trainer


def export(trainer: MultimodalDPOTrainer, metrics: dict[str, float]) -> None:
    """Write the trained model, and what is said of the run."""
    trainer.save_model()
    with writing(str(trainer.args.output_dir), "The trained model is saved there"):
        trainer.save_metrics("train", {**metrics, "skipped_rows": trainer.ledger.skipped.total})
        trainer.save_state()


def parse_arguments(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, MPOConfig]:
    """Read flags, or a YAML or JSON file of them and the flags that override it; see `internvl_chat.config_file`.

    Raises:
        ValueError: an unknown flag or key, or a value of a wrong type or out of its range.
        FileNotFoundError: the file is not there.
    """
    groups: tuple[ModelArguments, DataArguments, MPOConfig] = parse_flags(
        (ModelArguments, DataArguments, MPOConfig), argv
    )
    settle_reference(groups[0], groups[2])
    check_sharding(groups[0], groups[2])
    check_evaluation(*groups)
    check_held_out(groups[2])
    return groups


def wants_deepspeed(argv: Sequence[str]) -> bool:
    """Whether the flags or the configuration file name a DeepSpeed configuration; asked before they are parsed.

    Raises:
        FileNotFoundError: they name one that is not there; better said before the ranks meet.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--deepspeed", type=resolve_deepspeed_config)
    return bool(parser.parse_known_args(with_config(argv))[0].deepspeed)


def set_up_logging(args: MPOConfig) -> None:
    """Log to the console; ranks other than the first only warnings."""
    level = logging.INFO if args.process_index == 0 else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S", level=level)
    transformers.utils.logging.set_verbosity(logging.WARNING)


def build_dataset(
    meta_path: str,
    tokenizer: PreTrainedTokenizerBase,
    data_args: DataArguments,
    mpo_args: MPOConfig,
    num_image_token: int,
) -> MixtureDataset:
    """The rows of a meta.json as samples; ValueError where a look at a few says that a data set is of no use."""
    options: dict[str, Any] = {"with_rejected": bool(mpo_args.loss_mixture().names)}
    if mpo_args.judges_steps:
        options = {"targets": mpo_args.step_targets_of_rows(), "as_asked": mpo_args.step_context == "right"}
        options["layout"] = mpo_args.step_layout
    dataset = (JudgedDataset if mpo_args.judges_steps else MixtureDataset)(
        meta_path,
        tokenizer,
        template=data_args.conv_style,
        system_message=data_args.system_message,
        num_image_token=num_image_token,
        image_size=data_args.force_image_size,
        max_seq_length=data_args.max_seq_length,
        min_dynamic_patch=data_args.min_dynamic_patch,
        max_dynamic_patch=data_args.max_dynamic_patch,
        dynamic_image_size=data_args.dynamic_image_size,
        use_thumbnail=data_args.use_thumbnail,
        pad2square=data_args.pad2square,
        fast_resize=data_args.fast_resize,
        min_num_frame=data_args.min_num_frame,
        max_num_frame=data_args.max_num_frame,
        allow_file_symlinks=data_args.follow_symlinks,
        seed=mpo_args.seed,
        **options,
    )
    preflight(dataset, meta_path)
    return dataset


def run_config(source: Path, model_args: ModelArguments, data_args: DataArguments) -> InternVLChatConfig:
    """The checkpoint's configuration with what the flags set; ModuleNotFoundError, ValueError of `check_four_bits`."""
    config = load_config(source)
    if model_args.load_in_4bit:
        check_four_bits(config)
    data_args.configure(config)
    config.select_layer = model_args.vision_select_layer
    config.ps_version = model_args.ps_version
    vision_config: Any = config.vision_config
    layers = vision_config.num_hidden_layers
    if not -layers - 1 <= model_args.vision_select_layer <= layers:
        given = f"--vision_select_layer {model_args.vision_select_layer}"
        raise ValueError(f"{given}: the vision tower of {source} has {layers} layers, so -{layers + 1} to {layers}")
    vision_config.drop_path_rate = model_args.drop_path_rate
    return config


def load(
    source: Path,
    config: InternVLChatConfig,
    model_args: ModelArguments,
    mpo_args: MPOConfig,
    *,
    normalize_type: str = "imagenet",
) -> InternVLChatModel:
    """The checkpoint in the number format of the training."""
    dtype = number_format(model_args, mpo_args)
    loader = load_four_bits if model_args.load_in_4bit else load_model
    model = loader(source, config=config, dtype=dtype, attn_implementation=model_args.attn_implementation)
    model.normalize_type = normalize_type
    return model


def number_format(model_args: ModelArguments, mpo_args: MPOConfig) -> torch.dtype:
    """Of the weights that are loaded: half where they are frozen, or where DeepSpeed keeps float32 ones for its steps.

    Elsewhere steps of 1e-6 would vanish in bfloat16.
    """
    half = torch.bfloat16 if mpo_args.bf16 else torch.float16 if mpo_args.fp16 else torch.float32
    return half if mpo_args.deepspeed or model_args.has_adapters else torch.float32


def freeze(model: InternVLChatModel, args: ModelArguments) -> None:
    """Take the gradients from the parts that the flags freeze."""
    if args.freeze_backbone:
        model.vision_model.requires_grad_(False)
        if args.unfreeze_vit_layers:
            for layer in model.vision_model.encoder.layers[-args.unfreeze_vit_layers :]:
                layer.requires_grad_(True)
    if args.freeze_llm:
        model.language_model.requires_grad_(False)
    if args.freeze_mlp:
        model.mlp1.requires_grad_(False)


def adapt(model: InternVLChatModel, model_args: ModelArguments, mpo_args: MPOConfig) -> None:
    """Put in the adapters that the flags ask for; they are float32 unless DeepSpeed keeps such copies itself."""
    if not model_args.has_adapters:
        return
    set_seed(mpo_args.seed)  # the same adapters on every rank and in every rerun
    ranks = model_args.use_llm_lora, model_args.use_backbone_lora
    config = lora_config(*ranks, base=model_args.model_name_or_path)
    add_adapters(model, config, None if mpo_args.deepspeed else torch.float32)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        "adapters of rank %d in language model, %d in vision tower: %d weights; all others are frozen", *ranks, trained
    )


def find_resume_point(args: MPOConfig) -> str | None:
    """The checkpoint to continue from: as named, else the last whole one in the output folder, unless overwritten.

    A job that Slurm started again continues in any case: what it would overwrite is its own. A collective.

    Raises:
        FileNotFoundError: the named one is not there.
        ValueError: a file of the named one is not as it was saved.
    """
    ranks = (args.process_index, args.world_size)
    if args.resume_from_checkpoint:
        check_named(Path(args.resume_from_checkpoint), *ranks)
        return args.resume_from_checkpoint
    if args.overwrite_output_dir and int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        return None
    last = last_whole_checkpoint(Path(args.output_dir), *ranks)
    if last is None:
        return None
    logger.info("going on from %s; --overwrite_output_dir True would start anew", last)
    return str(last)


def check_named(folder: Path, rank: int, world_size: int) -> None:
    """Refuse a checkpoint that was named but is not there, or not as it was saved; a collective."""
    if rank == 0:
        finish_publishing(folder.parent)
    gather_objects(None)  # the others look when the first rank is done
    if not folder.is_dir():
        raise FileNotFoundError(f"--resume_from_checkpoint {folder}: no such folder; without it the last one is used")
    if not (folder / CHECKSUMS).is_file():
        logger.warning("%s has no %s: nobody can tell whether it is whole", folder, CHECKSUMS)
        return
    found = damage(folder, rank, world_size)
    if found:
        raise ValueError(
            f"--resume_from_checkpoint {folder}: {found}; name an older one, or none for the last whole one"
        )
