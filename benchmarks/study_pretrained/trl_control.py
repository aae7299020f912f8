"""A control by another's trainer: TRL's DPOTrainer on the language model alone, from the same start, on the same rows.

It shares no line of tokenizing, batching, loss or loop with `internvl_chat.train_mpo`, so what both do alike is done by
the loss and the pairs. Losses and weights are those of MPO, without the running mean that BCO subtracts here (TRL's
has none) and with its NLL a mean over tokens. The trained weights go back into the whole checkpoint, which the study's
own measures read.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import DPOConfig, DPOTrainer

from benchmarks.study.files import Row
from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.model import InternVLChatModel, load_model, load_tokenizer
from internvl_chat.model.conversation import Template, get_template

LOSS = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.1}
SHARED = (  # fields of the settings that both trainers take from transformers
    "per_device_train_batch_size",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "logging_steps",
    "seed",
    "bf16",
    "use_cpu",
)


def train_with_trl(start: Path, rows: Sequence[Row], out: Path, args: TrainingArguments) -> list[dict[str, float]]:
    """Train all weights of a checkpoint's language model on rows and write the checkpoint.

    Args:
        start: checkpoint in the published layout.
        rows: with `question`, `chosen` and `rejected`, no pictures.
        out: folder to write.
        args: settings of the run, of which those of `SHARED` are followed.

    Returns:
        The log, an entry for each logged step and the end of the run.
    """
    whole = load_model(start, dtype=torch.float32)
    trainer = make_trainer(whole, load_tokenizer(start), rows, settings_of(args))
    trainer.train()
    export_checkpoint(whole, start, out)
    return trainer.state.log_history


def settings_of(args: TrainingArguments) -> DPOConfig:
    """TRL's settings of the same run."""
    return DPOConfig(
        output_dir=args.output_dir,
        **{name: getattr(args, name) for name in SHARED},
        **LOSS,
        max_length=None,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def make_trainer(
    whole: InternVLChatModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], settings: DPOConfig
) -> DPOTrainer:
    """TRL's trainer of a checkpoint's language model, held to a copy of it.

    TRL appends the tokenizer's end to every answer: here what ends an answer in the template.
    """
    template = get_template(whole.config.template)
    tokenizer.eos_token = template.stop_token
    texts = Dataset.from_list([as_texts(row, template) for row in rows])
    policy = whole.language_model
    return DPOTrainer(policy, deepcopy(policy), settings, train_dataset=texts, processing_class=tokenizer)


def as_texts(row: Row, template: Template) -> dict[str, str]:
    """A row as TRL takes it: the prompt in the words of the template, and the two answers."""
    prompt = template.prompt([("user", row["question"]), ("assistant", None)])
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}
