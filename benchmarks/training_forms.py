"""One optimization step, forward, loss and backward, in the forms that are compared; same weights, rows and loss.

`original` is how the original stack runs a pair; `trl` is TRL's DPOTrainer on the same weights in transformers' own
InternVL class, as it runs on a CPU, and `trl_gpu_form` what it computes on a GPU: the LM head at labelled positions
alone, and no mask for padding on the right; the others are `MultimodalDPOTrainer`. A form is a function without
arguments that leaves gradients behind and returns the loss; `TrainedStep` adds what is the same for all of them,
clipping and the optimizer's update.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor
from training_flops import Work, fused_head_work, packed_work, padded_work
from training_model import IMAGE_TOKEN, Shape, Size, build_model, frozen_copy, make_batch, to_transformers
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from internvl_chat.arguments import MPOConfig
from internvl_chat.losses.mixture import PreferenceLogps, RunningMean, mixed_preference_loss, nll_loss
from internvl_chat.model import InternVLChatModel
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.model.modeling_internvl import normalize_tiles
from internvl_chat.packed.packing import pack_batch
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.fill import fill_cache
from internvl_chat.reference.frozen import CachedReference
from internvl_chat.run.trainer import MultimodalDPOTrainer

SIDES = ("chosen", "rejected")
SCRATCH = Path(tempfile.gettempdir()) / "bench_training"


class Step:
    """A form at work: calling it runs a step. `model` has the gradients."""

    def __init__(self, model: torch.nn.Module, loss: Callable[[], Tensor]) -> None:
        self.model, self.loss = model, loss

    def __call__(self) -> float:
        """Run a step from cleared gradients and return its loss, which waits for the device."""
        self.model.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        if loss.is_cuda:
            torch.cuda.synchronize()
        return loss.item()


class TrainedStep:
    """A whole step of a form as a launcher's run without DeepSpeed takes it: clipped gradients, and AdamW's update.

    With `autocast` products run in bfloat16 on float32 weights, as of `--bf16 True`.
    """

    def __init__(self, step: Step, device: torch.device, *, autocast: bool) -> None:
        self.step, self.model, self.device, self.autocast = step, step.model, device, autocast
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, weight_decay=0.05, fused=True)

    def __call__(self) -> float:
        """Run the step and return its loss, which waits for the device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.step.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if loss.is_cuda:
            torch.cuda.synchronize()
        return loss.item()


def original_step(size: Size, shape: Shape, device: torch.device, dtype: torch.dtype) -> Step:
    """2B padded rows with their own tiles, full logits in float32 for policy and reference.

    Rows are padded on the right, so causal attention needs no mask; leaving it out is the faster choice on a CPU.
    """
    policy = checkpointed(build_model(size, dtype=dtype, device=device))
    reference, delta = frozen_copy(policy), RunningMean()
    inputs, labels = padded_rows(make_batch(shape, size))
    inputs = {name: value.to(device) for name, value in inputs.items()}
    inputs["pixel_values"], labels = inputs["pixel_values"].to(dtype), labels.to(device)
    return Step(policy, lambda: original_loss(policy, reference, delta, (inputs, labels)))


def original_loss(
    policy: InternVLChatModel,
    reference: InternVLChatModel,
    delta: RunningMean,
    rows: tuple[Mapping[str, Tensor], Tensor],
) -> Tensor:
    """The mixed loss of `padded_rows`, all logits of policy and reference built."""
    inputs, labels = rows
    logps = full_logps(policy, inputs, labels)
    with torch.no_grad():
        reference_logps = full_logps(reference, inputs, labels)
    lengths = (labels != IGNORE_INDEX).sum(-1).chunk(2)
    pairs = PreferenceLogps(*logps.chunk(2), *lengths, *reference_logps.chunk(2))
    nll = nll_loss(pairs.policy_chosen, pairs.chosen_lengths)
    return mixed_preference_loss(pairs, nll, delta=delta.update(pairs.rewards(0.1))).total


def full_logps(model: InternVLChatModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Log-probs (2B,) of the answers, through logits (2B, S, V) in float32."""
    logits = model(**inputs, use_cache=False).logits.float()
    labels = labels[:, 1:]
    logps = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return (logps * (labels != IGNORE_INDEX)).sum(-1)


def padded_rows(batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
    """Chosen above rejected, padded to one length: model inputs, normalised tiles twice, and labels (2B, S)."""
    longest = max(batch[f"{side}_input_ids"].shape[1] for side in SIDES)

    def stacked(name: str, filler: int) -> Tensor:
        rows = [batch[f"{side}_{name}"] for side in SIDES]
        return torch.cat([torch.nn.functional.pad(r, (0, longest - r.shape[1]), value=filler) for r in rows])

    tiles = normalize_tiles(batch["pixel_values"])
    inputs = {
        "input_ids": stacked("input_ids", 0),
        "pixel_values": torch.cat([tiles, tiles]),
        "image_flags": torch.cat([batch["image_flags"]] * 2),
    }
    return inputs, stacked("labels", IGNORE_INDEX)


def trl_step(size: Size, shape: Shape, device: torch.device, dtype: torch.dtype, *, gpu_form: bool = False) -> Step:
    """TRL's own trainer and loss path on a batch as its collator makes them, or in the form that it has on a GPU."""
    policy = to_transformers(build_model(size, dtype=dtype, device=device), size)
    settings = DPOConfig(
        output_dir=str(SCRATCH / "trl"),
        loss_type=["sigmoid", "bco_pair", "sft"],
        loss_weights=[0.8, 0.2, 1.0],
        beta=0.1,
        max_length=None,
        bf16=False,
        use_cpu=device.type == "cpu",
        report_to="none",
    )
    words = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    trainer = DPOTrainer(policy, frozen_copy(policy), settings, train_dataset=words, processing_class=word_tokenizer())
    checkpointed(policy)
    inputs, labels = padded_rows(make_batch(shape, size))
    lengths = torch.cat([make_batch(shape, size)[f"{side}_attention_mask"].sum(-1) for side in SIDES])
    batch = {
        "input_ids": inputs["input_ids"],
        "attention_mask": (torch.arange(labels.shape[1]) < lengths[:, None]).long(),
        "completion_mask": (labels != IGNORE_INDEX).long(),
        "pixel_values": inputs["pixel_values"].to(dtype),
    }
    batch = {name: value.to(device) for name, value in batch.items()}
    if not gpu_form:
        return Step(policy, lambda: trainer.compute_loss(policy, batch))
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])  # as good as none: attention is plain causal

    def loss() -> Tensor:
        with patch("trl.trainer.utils._use_triton", lambda _: True):  # which positions it scores hangs on this alone
            return trainer.compute_loss(policy, batch)

    return Step(policy, loss)


def our_step(size: Size, shape: Shape, device: torch.device, dtype: torch.dtype, *, cached: bool) -> Step:
    """Our trainer on a packed batch, the reference from a model or from its cache on disk."""
    trainer = our_trainer(size, device, dtype)
    batch = pack_batch(make_batch(shape, size), IMAGE_TOKEN)
    moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
    if cached:
        trainer.reference = filled_reference(trainer.reference, [batch], trainer.accelerator)
    return Step(trainer.model, lambda: trainer.compute_loss(trainer.model, moved))


def our_trainer(size: Size, device: torch.device, dtype: torch.dtype) -> MultimodalDPOTrainer:
    """Our trainer of a random model, with a reference model."""
    policy = build_model(size, dtype=dtype, device=device)
    settings = MPOConfig(output_dir=str(SCRATCH / "ours"), report_to="none", use_cpu=device.type == "cpu")
    trainer = MultimodalDPOTrainer(
        policy, frozen_copy(policy), settings, processing_class=word_tokenizer(), source=SCRATCH / "ours"
    )
    checkpointed(policy)
    return trainer


def filled_reference(reference: Any, batches: Sequence[dict[str, Any]], accelerator: Accelerator) -> CachedReference:
    """A new cache on disk with what a reference model says of these batches."""
    cache = LogpsCache(tempfile.mkdtemp(dir=SCRATCH))
    fill_cache(cache, reference, batches, accelerator)
    return CachedReference(cache)


def checkpointed(model: Any) -> Any:
    """The model in training mode, every layer run again in the backward pass."""
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer for the trainers' constructors; the rows are made of ids."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>")


FORMS: dict[str, Callable[..., Step]] = {
    "original": original_step,
    "trl": trl_step,
    "trl_gpu_form": lambda *args: trl_step(*args, gpu_form=True),
    "ours_model_reference": lambda *args: our_step(*args, cached=False),
    "ours_cached_reference": lambda *args: our_step(*args, cached=True),
}


def form_work(form: str, shape: Shape) -> tuple[Work, bool]:
    """What a form computes for these pairs, and whether the reference computes it too."""
    if form.startswith("ours"):
        return packed_work(shape, prompts=shape.prompts), form == "ours_model_reference"
    return (padded_work(shape) if form == "original" else fused_head_work(shape)), True
