"""What a run is made of, kept in each of its checkpoints and held against a start that goes on from one.

A setting is refused, or takes effect from there on and is said, or makes no difference to the weights: one table below
says which. What flags lead to (base weights, losses, rows) counts by its content, wherever it lies and however it is
spelled. Images count by their paths alone. Optimizer and schedule follow the flags, see `follow_flags`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.optim.lr_scheduler import LambdaLR

from internvl_chat.arguments import DataArguments, ModelArguments, MPOConfig
from internvl_chat.checkpoint.files import checksum
from internvl_chat.data.order import pairs_per_step

# Another run: no checkpoint of this one is a part of it. Optimizer states of other weights do not fit either.
REFUSED = frozenset(
    {
        *("freeze_llm", "freeze_backbone", "freeze_mlp", "unfreeze_vit_layers"),
        *("use_backbone_lora", "use_llm_lora", "load_in_4bit", "vision_select_layer", "ps_version"),
        *("conv_style", "system_prompt", "max_seq_length", "force_image_size", "down_sample_ratio", "pad2square"),
        *("dynamic_image_size", "use_thumbnail", "min_dynamic_patch", "max_dynamic_patch", "fast_resize"),
        *("min_num_frame", "max_num_frame", "normalize_type"),
        *("step_targets", "step_thresholds", "step_layout", "step_context", "step_loss", "balance_steps"),
        *("beta", "label_smoothing", "nll_mode", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
        *("optim", "optim_args", "optim_target_modules", "lr_scheduler_type", "lr_scheduler_kwargs", "bf16", "fp16"),
    }
)
# People change these on purpose: a rate that was too high, more epochs, other machines. Said, and in settings.json.
IN_FORCE = frozenset(
    {
        *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
        *("num_train_epochs", "max_steps", "warmup_steps", "drop_path_rate", "neftune_noise_alpha"),
        *("max_skipped_share", "on_non_finite", "reference", "sequence_parallel_size", "attn_implementation", "tf32"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "average_tokens_across_devices"),
        *("tokens_per_device",),
        *("torch_compile", "use_liger_kernel", "use_cpu", "full_determinism", "follow_symlinks"),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "save_adapter_only"),
    }
)
# Where optimizers are sharded they load these with their state.
OF_THE_OPTIMIZER = frozenset({"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"})
# Held against the checkpoint by what they lead to: `recipe`, and `data.order.order_facts`.
BY_CONTENT = frozenset(
    {
        *("model_name_or_path", "meta_path", "deepspeed", "fsdp", "fsdp_config"),
        *("loss_type", "sigmoid_loss_weight", "bco_pair_loss_weight", "loss_weights", "rpo_alpha"),
        *("seed", "data_seed", "train_sampling_strategy", "group_by_length", "group_by", "balance_ranks"),
        *("group_prompts", "given_accumulation"),
    }
)
# Nothing in the weights depends on them: speed, memory, what is logged, saved, evaluated; or they have no effect here.
INDIFFERENT = frozenset(
    {
        *("output_dir", "resume_from_checkpoint", "overwrite_output_dir", "reference_cache_dir", "eval_meta_path"),
        *("use_data_resampling", "use_liger", "liger_kernel_config", "grad_checkpoint", "warmup_ratio"),
        *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
        *("gradient_checkpointing_kwargs", "offload_activations", "use_cache", "torch_empty_cache_steps"),
        *("torch_compile_backend", "torch_compile_mode", "auto_find_batch_size", "label_smoothing_factor"),
        *("logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter"),
        *("include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name"),
        *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "watchdog_seconds"),
        *("eval_strategy", "evaluation_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size"),
        *("eval_prompts", "eval_questions", "eval_samples", "eval_prompt_version", "eval_max_new_tokens"),
        *("eval_image_root", "on_fall"),
        *("prediction_loss_only", "eval_on_start", "eval_do_concat_batches", "eval_use_gather_object"),
        *("eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
        *("save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit"),
        *("enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"),
        *("hub_always_push", "hub_revision", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
        *("accelerator_config", "parallelism_config", "dataloader_drop_last", "dataloader_num_workers"),
        *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
        *("dataloader_multiprocessing_context", "dataloader_in_order", "remove_unused_columns", "label_names"),
        *("length_column_name", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"),
        *("ddp_static_graph", "ddp_backend", "ddp_timeout", "debug", "skip_memory_metrics"),
        *("do_train", "do_eval", "do_predict", "local_rank"),
    }
)
NO_LAMBDA = frozenset({"reduce_lr_on_plateau", "greedy"})  # schedules that keep their own rate
HYPERPARAMETERS = ("weight_decay", "betas", "eps", "initial_lr")  # of a group of parameters, beside its rate
SAMPLES, SAMPLE_BYTES = 64, 1 << 16
Changes = dict[str, tuple[Any, Any]]  # name -> what it was, what it is


def recipe(
    model_args: ModelArguments, data_args: DataArguments, mpo_args: MPOConfig, *, source: Path, datasets: Sequence[Any]
) -> dict[str, Any]:
    """What a run is made of, as JSON gives it back: name -> value.

    Args:
        model_args: flags; those of REFUSED and IN_FORCE are taken, and any that the table does not know.
        data_args: the same.
        mpo_args: the same.
        source: local folder of the base.
        datasets: the opened data sets of the mixture; their files are read.
    """
    flags = {**asdict(model_args), **asdict(data_args), **mpo_args.to_dict()}
    mixture = mpo_args.loss_mixture()
    made = {f"--{name}": value for name, value in flags.items() if name not in BY_CONTENT | INDIFFERENT}
    made["losses with weights"] = dict(zip(mixture.names, mixture.weights, strict=True)) | {"nll": mixture.nll_weight}
    made["base weights (--model_name_or_path)"] = weights_fingerprint(source)
    made["rows"] = "judged steps" if mpo_args.judges_steps else "answers"
    made["DeepSpeed"], made["FSDP"] = bool(mpo_args.deepspeed), bool(mpo_args.fsdp)
    for data in datasets:
        made[f"content of {data.spec.name}"] = checksum(Path(data.rows.path))
        made[f"max_dynamic_patch of {data.spec.name}"] = data.spec.max_dynamic_patch
    return dict(json.loads(json.dumps(made, default=str)))


def planned_steps(args: MPOConfig, places: int, data_world_size: int) -> int:
    """Optimizer steps of a whole run over so many places, each epoch ending in a step of its own."""
    if args.max_steps >= 0:
        return args.max_steps
    per_epoch = max(1, -(-places // pairs_per_step(args, data_world_size)))
    return math.ceil(args.num_train_epochs * per_epoch)


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """What both name and differs."""
    return {name: (value, now[name]) for name, value in was.items() if name in now and now[name] != value}


def refused(found: Changes, args: MPOConfig) -> Changes:
    """Those of the changes that a checkpoint cannot be continued with."""
    return {name: change for name, change in found.items() if not _takes_effect(name, args)}


def _takes_effect(name: str, args: MPOConfig) -> bool:
    flag = name.removeprefix("--")
    if flag == name or flag in REFUSED | BY_CONTENT:
        return False
    if flag in OF_THE_OPTIMIZER and (args.deepspeed or args.fsdp):
        return False
    return flag != "learning_rate" or str(getattr(args.lr_scheduler_type, "value", "")) not in NO_LAMBDA


def refuse(folder: Path, found: Changes) -> None:
    """End a start with changes that cannot be continued with; ValueError names old and new values and the cure."""
    if not found:
        return
    told = "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in found.items())
    cure = "give what has changed back, or start anew with --overwrite_output_dir True or another --output_dir"
    raise ValueError(f"{folder} cannot be continued exactly: {told}. {cure}")


def weights_fingerprint(source: Path) -> str:
    """Identity of a checkpoint's weights: of names, sizes, headers and 64 samples of each file, read in no time.

    Training changes nearly all weights, so that another checkpoint of the same model differs in every sample.
    """
    digest = xxhash.xxh3_128()
    for path in sorted([*source.glob("*.safetensors"), *source.glob("*.bin")]):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        for block in _samples(path):
            digest.update(block)
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    step = max(SAMPLE_BYTES, size // SAMPLES)
    with path.open("rb", buffering=0) as file:
        for start in range(0, size, step):
            yield os.pread(file.fileno(), SAMPLE_BYTES, start)


def follow_flags(groups: Sequence[dict[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> None:
    """Give loaded groups of parameters the decay, betas and first rate of a fresh optimizer; the moments stay."""
    for group, values in zip(groups, fresh, strict=True):
        group.update({name: values[name] for name in HYPERPARAMETERS if name in values and name in group})


def follow_schedule(scheduler: Any) -> None:
    """Set the rate of the coming step by the schedule in force: more epochs stretch it, another first rate scales it.

    Where nothing was changed this is the rate that was loaded. Schedules that keep their own rate are left alone.
    """
    schedule = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    if not isinstance(schedule, LambdaLR):
        return
    groups = schedule.optimizer.param_groups
    first_rates = zip(groups, schedule.base_lrs, strict=True)
    schedule.base_lrs = [float(group.get("initial_lr", first)) for group, first in first_rates]
    rates = zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, first, factor in rates:
        rate = first * factor(schedule.last_epoch)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    schedule._last_lr = [group["lr"] for group in groups]
