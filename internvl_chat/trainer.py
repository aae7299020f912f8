"""MultimodalDPOTrainer: transformers' Trainer for preference pairs. It has no maths of its own.

A step is: packed batch -> log-probs by policy and reference (`forward`, `reference`) -> loss (`losses`) -> metrics.
Losses divide by the pairs of the whole optimizer step over all ranks, so a pair weighs the same wherever it lands.
"""

from __future__ import annotations

import gc
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import release_memory
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler, get_parameter_names
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from trl.trainer.callbacks import SyncRefModelCallback

from internvl_chat.arguments import MPOConfig
from internvl_chat.checkpoint import PREFERENCE_STATE, export_checkpoint, mark_whole
from internvl_chat.forward import PairLogps, answer_logps, idle_batch, packed, pair_logps, use_shared_prefix
from internvl_chat.ledger import SkippedRows
from internvl_chat.logps_cache import LogpsCache
from internvl_chat.losses import PreferenceLogps, PreferenceLoss, RunningMean, mixed_preference_loss, nll_loss
from internvl_chat.metrics import MetricSums, pair_metrics
from internvl_chat.model import InternVLChatModel
from internvl_chat.packing import collate_packed
from internvl_chat.reference import CachedReference, FrozenReference, Reference, fill_cache
from internvl_chat.sampler import StepSampler, prompt_groups
from internvl_chat.signals import shield


class MultimodalDPOTrainer(Trainer):
    """Preference optimization of an InternVL policy against a frozen reference (arXiv 2411.10442).

    Attributes:
        running_mean: BCO's delta; saved with every checkpoint, still during evaluation.
        mixture: the losses with their weights.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the pairs of the whole step

    def __init__(
        self,
        model: InternVLChatModel,
        ref_model: InternVLChatModel | None,
        args: MPOConfig,
        *,
        processing_class: PreTrainedTokenizerBase,
        source: str | Path,
        reference: Reference | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepare policy and reference for packed rows.

        Args:
            model: the policy.
            ref_model: the frozen reference, None where no loss compares with one or `reference` takes its place.
            args: how to train.
            processing_class: tokenizer of the checkpoint.
            source: local folder of the checkpoint, which every saved one takes after.
            reference: gives reference log-probs without a model, see `CachedReference`.
            callbacks: as in transformers.
            kwargs: `train_dataset`, `eval_dataset`, `data_collator` and so on, as in transformers.

        Raises:
            ValueError: a loss needs a reference and there is none.
        """
        self.mixture = args.loss_mixture()
        if self.mixture.needs_reference and ref_model is None and reference is None:
            raise ValueError(f"loss_type {args.loss_type!r} compares with a reference: pass ref_model")
        kwargs.setdefault("data_collator", partial(collate_packed, pad_id=processing_class.pad_token_id))
        use_shared_prefix(model)
        super().__init__(model, args, processing_class=processing_class, callbacks=callbacks, **kwargs)
        self.model_accepts_loss_kwargs = True
        if not self.is_world_process_zero():
            self.remove_callback(PrinterCallback)  # it would print on the first rank of every node
        self.source = Path(source)
        self.running_mean = RunningMean()
        self.sums = {"train": MetricSums(), "eval": MetricSums()}
        self.skipped = SkippedRows(Path(args.output_dir) / "skipped.jsonl")
        self.reference = reference
        if ref_model is not None:
            use_shared_prefix(ref_model)
            self.reference = FrozenReference(ref_model, self.accelerator)
            if args.sync_ref_model:
                self.add_callback(SyncRefModelCallback(ref_model, self.accelerator))

    def cache_reference(self, cache: LogpsCache, data_name: str) -> int:
        """Let the reference model say all it has to say about the data, write that down, and let the model go.

        Args:
            cache: of this reference.
            data_name: tells the data sets of this run from others; the cache remembers that it holds them all.

        Returns:
            The number of log-probs that this rank computed; those that the cache had already are not.

        Raises:
            ValueError: the reference is no model.
        """
        if not isinstance(self.reference, FrozenReference):
            raise ValueError(f"only a model can fill a cache, the reference is {self.reference!r}")
        computed = 0
        for dataset in filter(None, (self.train_dataset, self.eval_dataset)):
            batches = tqdm(
                self._share_of_rank(dataset),
                desc="reference log-probs",
                disable=self.args.disable_tqdm or not self.accelerator.is_main_process,
            )
            computed += fill_cache(cache, self.reference, batches, self.accelerator)
        cache.mark_filled(data_name)
        self.reference = CachedReference(cache)
        gc.collect()
        release_memory()
        return computed

    def _share_of_rank(self, dataset: Any) -> DataLoader:
        """Every sample of the dataset on one of the ranks, in as many batches on each; the last ones may be empty."""
        size, world = self.args.per_device_train_batch_size, self.accelerator.num_processes
        mine = range(self.accelerator.process_index, len(dataset), world)
        num_batches = -(-len(dataset) // (world * size))
        return self._loader(dataset, [list(mine[k * size : (k + 1) * size]) for k in range(num_batches)])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Loss of one micro-batch.

        Args:
            model: the policy as wrapped for training.
            inputs: a batch of the collator.
            return_outputs: also return the PreferenceLoss, None where every row of the batch was skipped.
            num_items_in_batch: pairs of the optimizer step over all ranks; None for the mean over this batch.

        Raises:
            FloatingPointError: the loss is not finite; names the rows.
        """
        self.skipped.add(inputs.get("skipped", []))
        is_idle = "pixel_values" not in inputs
        if is_idle:  # all ranks have to run the same modules
            inputs = idle_batch(self.accelerator.unwrap_model(model), self.args.device)
        inputs = packed(inputs)
        row = inputs["packed"]
        policy = pair_logps(answer_logps(model, inputs), row)
        reference = self.reference.logps(inputs) if self.reference is not None else None
        if is_idle:
            if self.mixture.needs_delta and model.training:
                self.running_mean.update(policy.chosen[:0])
            return (policy.chosen.sum() * 0.0, None) if return_outputs else policy.chosen.sum() * 0.0
        result = self._preference_loss(policy, reference, is_training=model.training)
        self._check_finite(result, inputs)
        num_pairs = len(policy.chosen)
        self.sums["train" if model.training else "eval"].add(
            pair_metrics(policy, result), num_pairs, row.input_ids.numel()
        )
        loss = result.total
        if num_items_in_batch is not None:  # the mean over ranks that follows takes num_processes out again
            loss = loss * (num_pairs * self.accelerator.num_processes / num_items_in_batch)
        return (loss, result) if return_outputs else loss

    def _preference_loss(self, policy: PairLogps, reference: PairLogps | None, *, is_training: bool) -> PreferenceLoss:
        """Mixed loss of the pairs of a micro-batch; in training the delta takes their rewards in first."""
        pairs = preference_logps(policy, reference)
        delta = None
        if self.mixture.needs_delta:
            delta = self.running_mean.update(pairs.rewards(self.args.beta)) if is_training else self.running_mean.mean
        return mixed_preference_loss(
            pairs,
            nll_loss(policy.chosen, policy.chosen_lengths, self.args.nll_mode),
            self.mixture,
            beta=self.args.beta,
            label_smoothing=self.args.label_smoothing,
            delta=delta,
        )

    def _check_finite(self, result: PreferenceLoss, inputs: dict[str, Any]) -> None:
        if not torch.isfinite(result.total):
            parts = {name: value.item() for name, value in {**result.parts, "nll": result.nll.detach()}.items()}
            raise FloatingPointError(
                f"loss is {result.total.item()} at step {self.state.global_step}; parts {parts}; rows "
                f"{inputs.get('row_ids')}: look at these rows, or lower --learning_rate"
            )

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor | None, None, None]:
        """Loss of an evaluation batch; its metrics are summed for the log."""
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Pairs of an optimizer step over all ranks, at least 1."""
        pairs = sum(len(batch.get("row_ids", [])) for batch in batch_samples)
        count = torch.tensor(pairs, device=device)
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count, reduction="sum")
        return count.clamp(min=1)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters with weight decay: all but biases and LayerNorms, as the original trained.

        Today's transformers also spares RMS norms, by their names.
        """
        names = get_parameter_names(model, [torch.nn.LayerNorm])
        return [name for name in names if not name.endswith("bias")]

    def get_train_dataloader(self) -> DataLoader:
        """As in transformers, or with whole steps dealt to the ranks where prompts are grouped or ranks balanced."""
        if not (self.args.group_prompts or self.args.balance_ranks):
            loader = super().get_train_dataloader()
            inner = getattr(loader, "base_dataloader", loader)  # accelerate's wrapper starts the workers of this one
            inner.worker_init_fn = shield(inner.worker_init_fn)
            return loader
        sampler = StepSampler(
            self.train_dataset.lengths(),
            prompt_groups(self.train_dataset.mixture) if self.args.group_prompts else None,
            micro_batch_size=self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            shuffle=self.args.train_sampling_strategy != "sequential",
            seed=self.args.data_seed or self.args.seed,
        )
        loader = self._loader(self.train_dataset, sampler)
        # The sampler shares out by itself, so accelerate is to take this for a single process.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def _loader(self, dataset: Any, batches: Any) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            worker_init_fn=shield(None),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """As in transformers, with the dataset's own estimate of lengths for `group_by_length`."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy == "group_by_length":
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return LengthGroupedSampler(size, dataset=dataset, lengths=dataset.lengths())
        return super()._get_train_sampler(dataset)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the pair metrics over all ranks, the delta and the skips to an entry of the log."""
        if "loss" in logs or "eval_loss" in logs:
            kind, prefix = ("train", "") if "loss" in logs else ("eval", "eval_")
            metrics = self.sums[kind].read(self.accelerator)
            if self.mixture.needs_delta:
                metrics["delta"] = self.running_mean.mean.item()
            metrics["skipped_rows"] = self.skipped.flush(self.accelerator)
            logs |= {f"{prefix}{name}": value for name, value in metrics.items()}
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Export a checkpoint that other tools load; every saved one, not only the last."""
        model = self.accelerator.unwrap_model(self.model)
        export_checkpoint(model, self.source, output_dir or self.args.output_dir, state_dict=state_dict)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save the checkpoint, the state of the Trainer, and when all ranks are done BCO's delta."""
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            mark_whole(folder, {"running_mean": self.running_mean.state_dict()})
        self.accelerator.wait_for_everyone()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, from the start or on from a checkpoint folder.

        Raises:
            FileNotFoundError: the folder lacks the delta that its run had.
        """
        if isinstance(resume_from_checkpoint, str) and self.mixture.needs_delta:
            path = Path(resume_from_checkpoint) / PREFERENCE_STATE
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no BCO delta to resume with; is this a checkpoint of an MPO run?")
            self.running_mean.load_state_dict(json.loads(path.read_text())["running_mean"])
        return super().train(resume_from_checkpoint, *args, **kwargs)


def preference_logps(policy: PairLogps, reference: PairLogps | None) -> PreferenceLogps:
    """What the losses see. In fine-tuning the chosen answers stand in for the rejected ones, which no loss reads."""
    rejected = policy.chosen.detach() if policy.rejected is None else policy.rejected
    return PreferenceLogps(
        policy_chosen=policy.chosen,
        policy_rejected=rejected,
        chosen_lengths=policy.chosen_lengths,
        rejected_lengths=policy.chosen_lengths if policy.rejected_lengths is None else policy.rejected_lengths,
        reference_chosen=None if reference is None else reference.chosen,
        reference_rejected=None if reference is None else reference.rejected,
    )
