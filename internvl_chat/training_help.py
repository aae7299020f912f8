"""What `--help` of training prints: the flags that a user sets, under headings. No torch, so it is there at once.

Our own flags come from their dataclasses. Of the Trainer's hundred, those in TRAINER are the ones that a run sets;
`--help all` prints every one, which takes the seconds that transformers needs. A flag of ours in no group is printed
under the last heading, so that none can be missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from internvl_chat.data.arguments import DataArguments
from internvl_chat.flags import ModelArguments, PreferenceFlags
from internvl_chat.run.entry import Parser, program

GROUPS = {
    "what every run names": "model_name_or_path meta_path output_dir",
    "data": """max_seq_length max_dynamic_patch min_dynamic_patch force_image_size dynamic_image_size use_thumbnail
        pad2square fast_resize conv_style system_prompt min_num_frame max_num_frame follow_symlinks""",
    "model": """drop_path_rate freeze_llm freeze_backbone freeze_mlp unfreeze_vit_layers use_llm_lora use_backbone_lora
        load_in_4bit""",
    "loss": """loss_type loss_weights sigmoid_loss_weight bco_pair_loss_weight rpo_alpha beta label_smoothing nll_mode
        step_targets step_thresholds step_layout step_context step_loss balance_steps
        reference reference_cache_dir sync_ref_model ref_model_mixup_alpha ref_model_sync_steps""",
    "steps": """num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate
        weight_decay warmup_ratio lr_scheduler_type max_grad_norm seed""",
    "speed and memory": """bf16 grad_checkpoint offload_activations deepspeed fsdp group_by tokens_per_device
        balance_ranks sequence_parallel_size attn_implementation dataloader_num_workers""",
    "saving": """save_strategy save_steps save_total_limit save_only_model save_adapter_only overwrite_output_dir
        resume_from_checkpoint push_to_hub hub_model_id""",
    "logging and evaluation": """logging_steps report_to run_name eval_meta_path eval_strategy eval_steps
        per_device_eval_batch_size""",
    "guards": """eval_prompts eval_questions eval_samples eval_prompt_version eval_max_new_tokens eval_image_root
        on_fall max_skipped_share on_non_finite watchdog_seconds""",
    "what the checkpoint decides, and older names": """vision_select_layer down_sample_ratio ps_version normalize_type
        evaluation_strategy group_prompts group_by_length use_liger use_data_resampling do_train ddp_backend
        remove_unused_columns logging_nan_inf_filter dataloader_pin_memory""",
}
OTHER = "other flags"
# The Trainer's: default and sentence.
TRAINER = {
    "output_dir": (None, "Folder that the run writes to; the same command again goes on from its last checkpoint."),
    "num_train_epochs": (3.0, "Passes over the mixture."),
    "max_steps": (-1, "End after so many steps; -1 for --num_train_epochs."),
    "per_device_train_batch_size": (8, "Pairs of a process at once."),
    "gradient_accumulation_steps": (1, "Batches of a process before a step."),
    "learning_rate": (5e-5, "Largest learning rate; 1e-6 for all weights, 2e-5 for adapters."),
    "weight_decay": (0.0, "Of AdamW; the launchers set 0.05."),
    "lr_scheduler_type": ("linear", "linear, cosine, constant, ..; the launchers set cosine."),
    "max_grad_norm": (1.0, "Longer gradients are shortened to this norm."),
    "seed": (42, "Of order, adapters and drop path."),
    "bf16": (False, "Compute in bfloat16."),
    "dataloader_num_workers": (0, "Processes that read and cut images."),
    "save_strategy": ("steps", "steps, epoch or no."),
    "save_steps": (500, "Steps between checkpoints; a number below 1 is a share of all."),
    "save_total_limit": (None, "Checkpoints that are kept; the oldest go."),
    "save_only_model": (False, "Checkpoints that cannot be gone on from, without the optimizer."),
    "resume_from_checkpoint": (None, "Go on from this one instead of the last whole one."),
    "push_to_hub": (False, "Publish the result on the hub, with its card."),
    "hub_model_id": (None, "OWNER/NAME to publish as."),
    "report_to": ("none", "tensorboard, wandb, trackio, .. joined by commas, or none."),
    "run_name": (None, "Name of the run in a tracker."),
    "eval_strategy": ("no", "no, steps or epoch."),
    "eval_steps": (None, "Optimizer steps between evaluations, of --eval_meta_path and of --eval_prompts."),
    "per_device_eval_batch_size": (8, "Pairs of a process at once in evaluation."),
}
METAVARS = {"bool": "BOOL", "int": "N", "float": "X", "NoneType": "VALUE"}


def wants_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for the short help, and not for all flags."""
    asked = [number for number, word in enumerate(words) if word in ("-h", "--help")]
    return bool(asked) and list(words[asked[0] + 1 : asked[0] + 2]) != ["all"]


def help_text(groups: dict[str, str] = GROUPS) -> str:
    """The flags under their headings, with defaults."""
    flags = dict(described_flags())
    named = [(heading, names.split()) for heading, names in groups.items()]
    rest = [name for name in flags if name not in " ".join(groups.values()).split()]
    parser = Parser(
        prog=program(),
        usage="%(prog)s [FLAGS.yaml] --FLAG VALUE ...",
        description="Train on preference pairs. A YAML or JSON file of flags may stand first; see examples/.",
        epilog="--help all lists every flag of the Trainer of transformers, too.",
        add_help=False,
    )
    for heading, names in [*named, (OTHER, rest)]:
        group = parser.add_argument_group(heading)
        for name in names:
            default, sentence, kind = flags[name]
            shown = "" if default in (None, "") else f" (default: {default})"
            group.add_argument(f"--{name}", metavar=METAVARS.get(kind, "WORD"), help=escaped(sentence + shown))
    return parser.format_help()


def described_flags() -> Iterable[tuple[str, tuple[object, str, str]]]:
    """(name, (default, sentence, kind)) of each flag; a kind is the first word of its annotation."""
    for group in (ModelArguments, DataArguments, PreferenceFlags):
        for field in dataclasses.fields(group):
            kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)  # a parser makes it a type
            yield field.name, (field.default, field.metadata["help"], kind.split(" ")[0])
    for name, (default, sentence) in TRAINER.items():
        yield name, (default, sentence, type(default).__name__)


def escaped(sentence: str) -> str:
    """A sentence as argparse takes it, to which % is a sign of its own."""
    return sentence.replace("%", "%%")
