"""Flags of `internvl_chat.train_mpo`: which model, which data, how to train.

Every flag of the published launchers is here under its name. Names that transformers dropped since (`warmup_ratio`,
`evaluation_strategy`, `group_by_length`, `overwrite_output_dir`, `grad_checkpoint`, `use_liger`) keep their meaning or
say why they have none any more. Each group checks and completes itself once; later code trusts it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from internvl_chat.data.arguments import DataArguments, described
from internvl_chat.flags import ModelArguments, PreferenceFlags
from internvl_chat.losses.mixture import LossMixture, parse_loss_type
from internvl_chat.model.critic_turns import ANSWER, LAYOUTS
from internvl_chat.records.step_targets import StepTargets

__all__ = ["DataArguments", "MPOConfig", "ModelArguments", "described"]

logger = logging.getLogger(__name__)

# Values of --report_to that are no names of packages: of none, and of trackers that transformers looks for itself.
PACKAGED_OTHERWISE = frozenset({"all", "none", "", "azure_ml", "flyte", "kubeflow"})
JUDGING = "prm"  # the --loss_type of a critic
OF_JUDGING = {  # flags of a critic -> the words that they take, the first unless told otherwise
    "step_targets": ("labels", "scores"),
    "step_layout": LAYOUTS,
    "step_context": ("right", "judgements"),
    "step_loss": ("vocabulary", "words"),
}
# Packages that are known to be trackers: of another name, a slip, nobody is told to install it.
TRACKERS = ("tensorboard", "trackio", "wandb", "swanlab", "mlflow", "comet_ml", "neptune", "clearml", "dvclive")
DEEPSPEED_FOLDER = Path(__file__).resolve().parents[1] / "shell" / "deepspeed"

YES, NO = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")  # as transformers reads a bool


@dataclass
class MPOConfig(PreferenceFlags, TrainingArguments):
    """How to train: transformers' TrainingArguments and the preference losses (arXiv 2411.10442, section 3)."""

    given_accumulation: int | None = field(default=None, init=False)  # once another number was planned

    def __post_init__(self) -> None:
        """Give older names their meaning, check the losses, and take the CPU where there is no GPU.

        Raises:
            ValueError: an unknown loss, weights that do not match, or a value out of its range.
        """
        self._apply_older_names()
        self._follow_the_machine()
        named: Any = self.report_to  # type: ignore[has-type]
        if isinstance(named, str):
            self.report_to = [name.strip() for name in named.split(",")]
        check_trackers(self.report_to or [])
        if isinstance(self.deepspeed, str):
            self.deepspeed = resolve_deepspeed_config(self.deepspeed) or None
        self._check_counts()
        self._check_choices()
        if self.dataloader_drop_last:
            logger.warning("--dataloader_drop_last has no effect: every row of the mixture is trained on")
        if self.reference_cache_dir is None:
            self.reference_cache_dir = str(Path(self.output_dir or ".").resolve().parent / "reference_cache")
        self.loss_mixture()
        self._check_judging()
        super().__post_init__()
        if self.offload_activations:
            if not self.activation_checkpointing:
                raise ValueError("--offload_activations True moves what --grad_checkpoint True keeps: set both")
            if self.recomputes_by_need:
                raise ValueError("--offload_activations True moves what all layers keep: set --grad_checkpoint True")
            given: Any = self.activation_checkpointing_kwargs  # type: ignore[has-type]
            self.activation_checkpointing_kwargs = {**(given or {}), "offload": True}
        if self.fsdp and self.fsdp_plugin_args["state_dict_type"] != "FULL_STATE_DICT":
            raise ValueError("--fsdp_config: state_dict_type must be FULL_STATE_DICT, as checkpoints are whole here")

    @property
    def n_gpu(self) -> int:
        """GPUs of this process, at most one.

        The Trainer wraps a model in `nn.DataParallel` where a single process sees several, and that cuts the tiles of a
        packed row apart. Several GPUs take several processes.
        """
        return min(super().n_gpu, 1)

    def take_micro_batches(self, planned: int) -> None:
        """Take so many micro-batches in a step, before a Trainer is built; the pairs of a step stay as they were.

        DeepSpeed counts them too.
        """
        given: int = self.gradient_accumulation_steps  # type: ignore[has-type]
        self.given_accumulation = self.given_accumulation or given
        self.gradient_accumulation_steps = planned
        if self.deepspeed:
            config = self.hf_deepspeed_config.config
            config["gradient_accumulation_steps"] = planned
            config["train_batch_size"] = config["train_micro_batch_size_per_gpu"] * planned * self.world_size

    def _check_counts(self) -> None:
        """Raise ValueError for numbers that end in an error of a library, or in none, far from here."""
        sizes = ("per_device_train_batch_size", "per_device_eval_batch_size", "sequence_parallel_size")
        for name in (*sizes, "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least 1")
        if not self.num_train_epochs >= 0:
            raise ValueError(f"--num_train_epochs {self.num_train_epochs} must be at least 0")
        if not self.learning_rate >= 0:
            raise ValueError(f"--learning_rate {self.learning_rate} must be at least 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed {self.seed} must be at least 0 and below 2**32")
        if self.beta <= 0:
            raise ValueError(f"--beta {self.beta} must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"--label_smoothing {self.label_smoothing} is not in [0, 0.5)")
        if self.tokens_per_device < 0:
            raise ValueError(f"--tokens_per_device {self.tokens_per_device} must be at least 0, which is no limit")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"--max_skipped_share {self.max_skipped_share} is not in [0, 1]")

    def _check_choices(self) -> None:
        """Raise ValueError for words that are unknown or missing, or exclude each other."""
        if self.output_dir == "":
            raise ValueError("--output_dir is empty: name the folder that the run writes to")
        if self.reference not in (None, "model", "cache", "adapter"):
            raise ValueError(f"--reference {self.reference} is unknown: take model, cache or adapter")
        if self.reference == "cache" and self.sync_ref_model:
            raise ValueError("--sync_ref_model True moves the reference, so --reference cache would be stale at once")
        if self.group_by not in ("none", "prompt", "image"):
            raise ValueError(f"--group_by {self.group_by} is unknown: take none, prompt or image")
        if self.on_non_finite not in ("stop", "skip"):
            raise ValueError(f"--on_non_finite {self.on_non_finite} is unknown: take stop or skip")
        if self.on_fall not in ("stop", "warn"):
            raise ValueError(f"--on_fall {self.on_fall} is unknown: take stop or warn")

    @property
    def judges_steps(self) -> bool:
        """Whether a critic of steps is trained."""
        return self.loss_type.strip().lower() == JUDGING

    def step_targets_of_rows(self) -> StepTargets:
        """What is learned of a step; ValueError where --step_thresholds cannot be read."""
        return StepTargets.parse(self.step_thresholds, soft=self.step_targets == "scores")

    def _check_judging(self) -> None:
        """Raise ValueError for flags of a critic that cannot be read, or are given to another training."""
        for name, known in OF_JUDGING.items():
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} {getattr(self, name)} is unknown: take {' or '.join(known)}")
        if self.step_layout == ANSWER and self.step_context != "right":
            raise ValueError(f"--step_layout {ANSWER} shows no judgements: leave --step_context out")
        self.step_targets_of_rows()
        unset: dict[str, Any] = {name: known[0] for name, known in OF_JUDGING.items()}
        unset |= {"step_thresholds": None, "balance_steps": False}
        named = {name: getattr(self, name) for name in unset}
        given = [f"--{name} {value}" for name, value in named.items() if value != unset[name]]
        if given and not self.judges_steps:
            raise ValueError(f"{', '.join(given)} is of --loss_type {JUDGING}, which is {self.loss_type}: leave it out")

    def _follow_the_machine(self) -> None:
        """Bars where a person looks on; a CPU where there is no GPU."""
        if self.disable_tqdm is None:  # type: ignore[has-type]
            self.disable_tqdm = not sys.stderr.isatty()  # bars in a file or under srun only tear its lines
        if not torch.cuda.is_available():
            self.use_cpu = True
            self.dataloader_pin_memory = False
            if "RANK" in os.environ and self.ddp_backend is None:  # of torchrun, or of process.initialize
                self.ddp_backend = "gloo"

    @property
    def recomputes_by_need(self) -> bool:
        """Whether each row decides how many layers are computed again in the backward pass."""
        return self.grad_checkpoint == "auto"

    def _recomputes(self) -> bool:
        """Whether layers are computed again: --grad_checkpoint in the words that transformers takes for a bool."""
        given = str(self.grad_checkpoint).lower()
        if given not in (*YES, *NO, "auto"):
            raise ValueError(f"--grad_checkpoint {self.grad_checkpoint} is unknown: take True, False or auto")
        return given not in NO

    def _apply_older_names(self) -> None:
        """Move values given under older names to today's, and empty the older ones so that they are not stale."""
        if self.evaluation_strategy is not None:
            self.eval_strategy, self.evaluation_strategy = self.evaluation_strategy, None
        if self.warmup_ratio is not None:
            self.warmup_steps, self.warmup_ratio = self.warmup_ratio, None  # a number below 1 is a share of all steps
        if self.grad_checkpoint is not None:
            # transformers renames it from 5.18 on
            today = (
                "activation_checkpointing" if hasattr(self, "activation_checkpointing") else "gradient_checkpointing"
            )
            setattr(self, today, self._recomputes())
            self.grad_checkpoint = "auto" if str(self.grad_checkpoint).lower() == "auto" else None
        if self.fsdp in ("True", "False"):
            self.fsdp = self.fsdp == "True"  # type: ignore[assignment]  # words of a command line, for a bool
        if self.group_prompts and self.group_by == "image":
            raise ValueError("--group_prompts True is --group_by prompt, --group_by image is given too: leave one out")
        if self.group_prompts:
            self.group_by = "prompt"
        if self.group_by_length:
            self.train_sampling_strategy = "group_by_length"
        if self.use_liger:
            logger.warning("--use_liger has no effect: the full logits that Liger avoids are never built here")

    def loss_mixture(self) -> LossMixture:
        """The losses with their weights.

        Raises:
            ValueError: an unknown loss, or weights that do not match.
        """
        names = [name.strip().removesuffix("+") for name in self.loss_type.split(",")]
        if self.judges_steps:
            return parse_loss_type("sft")  # the NLL of its judgements, and of nothing else
        if JUDGING in names:
            raise ValueError(f"--loss_type {self.loss_type}: {JUDGING} trains a critic and goes with no other loss")
        if self.loss_weights is not None:
            values = [float(value) for value in self.loss_weights.split(",")]
            if len(names) != len(values):
                raise ValueError(f"--loss_weights {self.loss_weights} does not match --loss_type {self.loss_type}")
            return parse_loss_type(self.loss_type, dict(zip(names, values, strict=True)), self.rpo_alpha)
        if names == ["sft"]:
            return parse_loss_type(self.loss_type)
        # A launcher gives the weights of its mixture; they are left out when a later --loss_type names other losses.
        weights = {"sigmoid": self.sigmoid_loss_weight, "bco_pair": self.bco_pair_loss_weight}
        given = {name: weight for name, weight in weights.items() if weight is not None and name in names}
        return parse_loss_type(self.loss_type, given, self.rpo_alpha)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a name of --report_to whose package is not here, before a model is loaded.

    Raises:
        ModuleNotFoundError: nothing of this name is installed.
    """
    for name in set(names) - PACKAGED_OTHERWISE:
        if find_spec(name) is None:
            near = "".join(f"; did you mean {known}?" for known in get_close_matches(name, TRACKERS, n=1))
            cure = f": pip install {name}, or take tensorboard or none" if name in TRACKERS else near
            raise ModuleNotFoundError(f"--report_to {name}: no package of this name is installed{cure}")


def check_evaluation(model: ModelArguments, data: DataArguments, mpo: MPOConfig) -> None:
    """Refuse an evaluation that has no rows or no training around it.

    Raises:
        ValueError: says which flag is missing, or which command evaluates alone.
    """
    if not mpo.do_train:
        rows = data.eval_meta_path or "META.json"
        command = f"--checkpoint {mpo.output_dir} --reference {model.model_name_or_path} --pairs {rows}"
        raise ValueError(
            f"--do_train False: this command trains; to evaluate what it left: tools/evaluate.py {command}"
        )
    if mpo.eval_strategy != "no" and not data.eval_meta_path:
        raise ValueError(f"--eval_strategy {mpo.eval_strategy} needs rows: name their meta.json by --eval_meta_path")
    if mpo.load_best_model_at_end and mpo.eval_strategy == "no":
        raise ValueError("--load_best_model_at_end True needs evaluations: set --eval_strategy and --eval_meta_path")


def check_held_out(mpo: MPOConfig, steps: int | None = None) -> None:
    """Refuse --eval_prompts that could not be asked.

    Args:
        mpo: flags.
        steps: of the whole run; None where they are not known yet.

    Raises:
        ValueError: says which flag is at fault, and the cure.
    """
    if not mpo.eval_prompts:
        return
    every, example = mpo.eval_steps, "take one of some 10 looks in a run, such as 20"
    if not every or every < 0:
        raise ValueError(
            f"--eval_steps {every} with --eval_prompts: name the optimizer steps between two looks; {example}"
        )
    if steps is not None and every > steps:
        raise ValueError(f"--eval_steps {every} with --eval_prompts: the run has {steps} steps; {example}")
    least = {"eval_questions": 10, "eval_samples": 0, "eval_max_new_tokens": 1}
    for name, value in least.items():
        if getattr(mpo, name) < value:
            raise ValueError(f"--{name} {getattr(mpo, name)} must be at least {value}")
    is_zero3 = bool(mpo.deepspeed) and mpo.hf_deepspeed_config.is_zero3()
    if is_zero3 or mpo.fsdp or mpo.sequence_parallel_size > 1:
        split = (
            f"--deepspeed {mpo.deepspeed}" if is_zero3 else "--fsdp True" if mpo.fsdp else "--sequence_parallel_size"
        )
        raise ValueError(
            f"--eval_prompts with {split}: a rank that answers needs all weights, and here each has a part; take "
            "--deepspeed zero_stage1_config.json, or leave it out and run tools/evaluate.py on the saved checkpoints"
        )


def settle_reference(model: ModelArguments, mpo: MPOConfig) -> None:
    """Choose --reference where it is not given.

    Raises:
        ValueError: a choice that needs adapters without them, or that they exclude.
    """
    mpo.reference = mpo.reference or ("adapter" if model.has_adapters else "model")
    if not model.has_adapters and (mpo.reference == "adapter" or mpo.save_adapter_only):
        choice = "--save_adapter_only True" if mpo.save_adapter_only else "--reference adapter"
        raise ValueError(f"{choice} needs adapters: set --use_llm_lora or --use_backbone_lora to a rank such as 16")
    if model.has_adapters and mpo.sync_ref_model:
        raise ValueError("--sync_ref_model True moves the reference, which with LoRA is the base: train in full")


def check_sharding(model: ModelArguments, mpo: MPOConfig) -> None:
    """Refuse to shard weights of 4 bits.

    Raises:
        ValueError: ZeRO-3 or FSDP would.
    """
    is_zero3 = model.load_in_4bit and bool(mpo.deepspeed) and mpo.hf_deepspeed_config.is_zero3()
    if model.load_in_4bit and (mpo.fsdp or is_zero3):
        choice = f"--deepspeed {mpo.deepspeed}" if is_zero3 else "--fsdp True"
        raise ValueError(
            f"--load_in_4bit True with {choice}: weights of 4 bits are not sharded, every GPU holds them whole; "
            "take --deepspeed zero_stage1_config.json or leave it out"
        )


def resolve_deepspeed_config(name: str) -> str:
    """Path of a DeepSpeed configuration: as given, or ours of that name in `shell/deepspeed/`.

    JSON itself, which transformers takes, and "" stay as they are.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    if not name or name.startswith("{") or Path(name).is_file():
        return name
    ours = DEEPSPEED_FOLDER / Path(name).name
    if not ours.is_file():
        known = ", ".join(sorted(path.name for path in DEEPSPEED_FOLDER.glob("*.json")))
        raise FileNotFoundError(f"--deepspeed {name}: no such file, and {DEEPSPEED_FOLDER} has only {known}")
    return str(ours)
