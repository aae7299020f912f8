"""MultimodalDPOTrainer: transformers' Trainer for preference pairs. It has no maths of its own.

A step is: packed batch -> log-probs by policy and reference (`forward`, `reference`) -> loss (`losses`) -> metrics.
Losses divide by the pairs of the whole optimizer step over all ranks, so a pair weighs the same wherever it lands.
"""

from __future__ import annotations

import copy
import gc
import json
import logging
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, release_memory
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase, TrainerCallback

from internvl_chat.arguments import MPOConfig
from internvl_chat.checkpoint.export import RESUME_FOLDER, save_weights
from internvl_chat.checkpoint.resume import PREFERENCE_STATE, REFERENCE_WEIGHTS, load_weights
from internvl_chat.losses.mixture import PreferenceLoss, RunningMean, mixed_preference_loss, nll_loss
from internvl_chat.losses.pair import PreferenceLogps
from internvl_chat.model import InternVLChatModel
from internvl_chat.model.upstream import TrainOutput, get_parameter_names
from internvl_chat.packed.attention import kernel_refusals, use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.memory import SECOND_ANSWER, StepLoad, most_seen
from internvl_chat.packed.packing import collate_packed, idle_batch, with_packed
from internvl_chat.packed.sequence_parallel import SequenceGroup, split_rows
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.fill import RowsToFill, fill_cache, known_rows, plan_fill
from internvl_chat.reference.frozen import CachedReference, FrozenReference, Reference
from internvl_chat.reference.rows import RowIndex
from internvl_chat.run.guards import CurveWatch
from internvl_chat.run.held_out import HeldOut, HeldOutGuard
from internvl_chat.run.ledger import SkippedRows
from internvl_chat.run.metrics import StepGuard, pair_metrics
from internvl_chat.run.process import gather_objects
from internvl_chat.run.progress import show_steps, shown_batches
from internvl_chat.run.recomputation import Recomputation
from internvl_chat.run.resumable import ResumableTrainer
from internvl_chat.run.watchdog import Watchdog

logger = logging.getLogger(__name__)


class MultimodalDPOTrainer(ResumableTrainer):
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
        held_out: HeldOut | None = None,
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
            held_out: questions that the policy is asked on its way, see `HeldOutGuard`.
            callbacks: as in transformers.
            kwargs: `train_dataset`, `eval_dataset`, `data_collator` and so on, as in transformers.

        Raises:
            ValueError: a loss needs a reference and there is none.
        """
        self.mixture = args.loss_mixture()
        if self.mixture.needs_reference and ref_model is None and reference is None:
            raise ValueError(f"loss_type {args.loss_type!r} compares with a reference: pass ref_model")
        kwargs.setdefault("data_collator", partial(collate_packed, image_token_id=model.img_context_token_id))
        use_shared_prefix(model)
        _say_refusals(model, args)
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = _leaves_parameters_unused(model)
        super().__init__(model, args, processing_class=processing_class, callbacks=callbacks, **kwargs)
        self.model_accepts_loss_kwargs = True
        show_steps(self, Path(args.output_dir))
        self.source = Path(source)
        self.image_token_id = model.img_context_token_id
        self.running_mean = RunningMean()
        self.eval_skipped = SkippedRows(Path(args.output_dir) / "eval_skipped.jsonl")
        self.guard = StepGuard(args.device)
        self.skipped_steps = 0
        self.watchdog = Watchdog(Path(args.output_dir), args.process_index, args.watchdog_seconds)
        self.held_out = HeldOutGuard(held_out, args, self.log) if held_out is not None else None
        self._watch()
        if ref_model is not None:
            use_shared_prefix(ref_model)
        if args.sequence_parallel_size > 1:
            _split_rows((model, ref_model), args.sequence_parallel_size)
        self.recomputation = self._recomputation(model) if args.recomputes_by_need else None
        self.reference = reference
        if ref_model is not None:
            self.reference = FrozenReference(ref_model, self.accelerator)
            if args.sync_ref_model:
                from internvl_chat.model.upstream import SyncRefModelCallback  # of trl, which takes seconds to load

                self.add_callback(SyncRefModelCallback(ref_model, self.accelerator))

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; FSDP on CPUs too, which accelerate would train with DDP without a word."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.fsdp and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As of `ResumableTrainer`; the watchdog's thread ends with it, by an error too."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.watchdog.on_train_end()

    def _watch(self) -> None:
        """Add what looks at the run from outside: at its curves, for signs of life, with held-out questions."""
        self.add_callback(CurveWatch())
        self.add_callback(self.watchdog)
        if self.held_out is not None:
            self.add_callback(self.held_out)
            self.held_out.alive = self._say_alive

    def _say_alive(self) -> None:
        """For the watchdog: a part of a look at held-out answers is done."""
        self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def leave(self) -> None:
        """After training: end the process if held-out answers stopped it; Finding as of `HeldOutGuard.leave`."""
        if self.held_out is not None:
            self.held_out.leave(Path(self.args.output_dir))

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
        datasets = filter(None, (self.train_dataset, self.eval_dataset))
        computed = sum(self._fill(cache, self.reference, dataset) for dataset in datasets)
        cache.mark_filled(data_name)
        self.reference = CachedReference(cache)
        gc.collect()
        release_memory()
        return computed

    def _fill(self, cache: LogpsCache, reference: FrozenReference, dataset: Any) -> int:
        """Compute the log-probs of a data set's answers that the cache lacks; how many those of this rank are."""
        index, begin = RowIndex(cache.folder, cache.rank), time.monotonic()
        plan = plan_fill(
            dataset,
            lambda places: known_rows(places, dataset, index, cache, rank=self.rank, world_size=self.world_size),
            most_prompts=self.args.per_device_train_batch_size,
        )
        rows = sum(map(len, plan.batches))
        logger.info("reference log-probs: %d rows to read, %d known; %d prompts in all", rows, plan.known, plan.prompts)
        mine = plan.of_rank(self.data_rank, self.data_world_size)
        samples = RowsToFill(dataset, self.data_collator)
        loader = self._loader(samples, mine, samples.collate)
        has_bar = self.accelerator.is_main_process and not self.args.disable_tqdm
        batches = shown_batches(loader, [len(batch) for batch in mine], "reference log-probs", bar=has_bar)
        computed = fill_cache(cache, reference, batches, self.accelerator, index)
        of_all = sum(gather_objects(computed if self.counts_rows else 0))
        logger.info("reference log-probs: %d answers computed in %.0f s", of_all, time.monotonic() - begin)
        return computed

    def _recomputation(self, model: InternVLChatModel) -> Recomputation:
        """The choice of layers: for each row, or for the longest one where ranks compute a layer together."""
        args, longest = self.args, None
        if self.is_zero3 or args.fsdp or args.sequence_parallel_size > 1:
            tokens = self.processing_class.model_max_length + SECOND_ANSWER
            tokens = max(tokens, args.tokens_per_device or args.per_device_train_batch_size * tokens)
            tokens //= args.sequence_parallel_size
            seen = most_seen(self.sampler.most_together if self.sampler is not None else 1)
            longest = StepLoad(tokens, tokens // model.num_image_token, keys=seen * tokens)
        return Recomputation(model, half=bool(args.bf16 or args.fp16), alike_for=longest)

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
            return_outputs: also return what `_loss_of` does, None where every row of the batch was skipped.
            num_items_in_batch: weight of the whole step over all ranks, its pairs; None for the mean over this batch.

        A loss that is not finite is found at the end of the step, see `StepGuard`.
        """
        if self.counts_rows:
            self._count_rows(inputs, is_training=model.training)
        if "pixel_values" in inputs:
            loss, result = self._loss_of(model, inputs, num_items_in_batch)
        else:
            loss, result = self._idle_loss(model), None
        return (loss, result) if return_outputs else loss

    def _loss_of(
        self, model: torch.nn.Module, inputs: dict[str, Any], of_step: torch.Tensor | None
    ) -> tuple[torch.Tensor, Any]:
        """Loss of a micro-batch with rows, its share where the weight of the whole step is given, and its parts."""
        inputs = with_packed(inputs, self.image_token_id)
        pack = inputs["packed"]
        self._recompute_by_need(model, inputs, len(pack.label_positions))
        policy = answer_logps(model, inputs)
        reference = self.reference.answer_logps(inputs) if self.reference is not None else None
        pairs = PreferenceLogps.of_answers(pack.pair_answers, pack.lengths, policy, reference)
        result = self._preference_loss(pairs, is_training=model.training)
        num_pairs = len(pairs.policy_chosen)
        metrics = pair_metrics(pairs, result, has_rejected=pack.has_rejected)
        if model.training:
            self.guard.add(result, inputs.get("row_ids", []))
        else:
            metrics["loss"] = result.total.detach().double() * num_pairs
        if self.counts_rows:
            self.sums["train" if model.training else "eval"].add(metrics, num_pairs, pack.input_ids.numel())
        loss = result.total
        if of_step is not None:  # the mean over ranks that follows takes num_processes out again
            loss = loss * (num_pairs * self.accelerator.num_processes / of_step)
        return loss, result

    def _idle_loss(self, model: torch.nn.Module) -> torch.Tensor:
        """Zero, of a rank without a row: all ranks have to run the same modules, a reference model among them."""
        inputs = idle_batch(self.accelerator.unwrap_model(model), self.args.device)
        self._recompute_by_need(model, inputs, len(inputs["packed"].label_positions))
        policy = answer_logps(model, inputs)
        if self.reference is not None and not isinstance(self.reference, CachedReference):  # which knows no blank row
            self.reference.answer_logps(inputs)
        if self.mixture.needs_delta and model.training:
            self.running_mean.update(policy[:0])
        return policy.sum() * 0.0

    def _recompute_by_need(self, model: torch.nn.Module, inputs: dict[str, Any], num_labels: int) -> None:
        """Choose the layers that are computed again for this batch, where --grad_checkpoint auto leaves that open."""
        if self.recomputation is None or not model.training:
            return
        pack = inputs["packed"]
        sizes = pack.input_ids.numel(), len(inputs["pixel_values"]), num_labels
        load = StepLoad(*sizes, keys=len(pack.layout.varlen.keys))
        has_moments = self.is_deepspeed_enabled or bool(self.optimizer and self.optimizer.state)
        self.recomputation.choose(load, has_moments=has_moments)

    def _count_rows(self, inputs: dict[str, Any], *, is_training: bool) -> None:
        """Enter the rows of a batch into the ledger."""
        if is_training:
            self.ledger.see(inputs.get("row_ids", []), inputs.get("skipped", []))
        else:
            self.eval_skipped.add(inputs.get("skipped", []))

    def _preference_loss(self, pairs: PreferenceLogps, *, is_training: bool) -> PreferenceLoss:
        """Mixed loss of the pairs of a micro-batch; in training the delta takes their rewards in first."""
        delta = None
        if self.mixture.needs_delta:
            delta = self.running_mean.update(pairs.rewards(self.args.beta)) if is_training else self.running_mean.mean
        return mixed_preference_loss(
            pairs,
            nll_loss(pairs.policy_chosen, pairs.chosen_lengths, self.args.nll_mode),
            self.mixture,
            beta=self.args.beta,
            label_smoothing=self.args.label_smoothing,
            delta=delta,
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in transformers, which refuses the batch of a rank for which no rows were left."""
        return super()._prepare_inputs(inputs) if inputs else inputs

    def get_batch_samples(self, *args: Any) -> tuple[list, Any]:
        """The micro-batches of a step; what it will change of sums and delta can be undone from here on."""
        self._before = (self._tr_loss.clone(), copy.copy(self.sums["train"]), copy.copy(self.running_mean))
        return super().get_batch_samples(*args)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """As in transformers; a step whose losses or gradient are not finite ends the run, or is skipped.

        Raises:
            FloatingPointError: on all ranks; names rows and parts of the loss.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of FSDP
        # In float16 the scaler looks for overflows, which are part of its work.
        problem = self.guard.check(None if self.args.fp16 else norm, self.model)
        if problem is None:
            return norm
        if self.args.on_non_finite == "stop":
            raise FloatingPointError(f"step {self.state.global_step + 1}: {problem}")
        logger.warning("step %d is skipped: %s", self.state.global_step + 1, problem)
        self._undo_step(model, problem)
        return 0.0

    def _undo_step(self, model: torch.nn.Module, problem: str) -> None:
        """Leave weights, delta and metrics as they were before this step, and its rows as skipped."""
        model.zero_grad(set_to_none=True)  # AdamW leaves alone what has no gradient; DeepSpeed saw for itself
        before, self.sums["train"], self.running_mean = self._before
        self._tr_loss.copy_(before)
        self._globalstep_last_logged += 1  # its loss is in no mean: not in that of the log entry,
        self._initial_global_step += 1  # nor in that of the run
        self.skipped_steps += 1
        self.ledger.settle(problem)
        self.ledger.flush(is_writer=self.args.should_save)

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
        count = torch.full((), pairs, device=device)  # not copied there, for which the host would wait
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count, reduction="sum")
        return count.clamp(min=1)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters with weight decay: all but biases and LayerNorms, as the original trained.

        Today's transformers also spares RMS norms, by their names.
        """
        names = get_parameter_names(model, [torch.nn.LayerNorm])
        return [name for name in names if not name.endswith("bias")]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the pair metrics over all ranks, the delta and the skips to an entry of the log.

        Raises:
            TooManySkips: more rows were skipped than `--max_skipped_share` allows.
        """
        if "loss" in logs or "eval_loss" in logs:
            kind, prefix = ("train", "") if "loss" in logs else ("eval", "eval_")
            metrics = self.read_metrics(kind)
            if self.mixture.needs_delta:
                metrics["delta"] = self.running_mean.mean.item()
            metrics["skipped_rows"] = self._flush_skipped(kind)
            if self.skipped_steps:
                metrics["skipped_steps"] = self.skipped_steps
            if self.recomputation is not None and kind == "train":
                metrics["recomputed_layers"] = self.recomputation.mean()
            logs |= {f"{prefix}{name}": value for name, value in metrics.items()}
        super().log(logs, start_time)

    def read_metrics(self, kind: str) -> dict[str, float]:
        """Means of training or evaluation since the last entry of the log, over all ranks; a collective."""
        return self.sums[kind].read(self.accelerator)

    def _flush_skipped(self, kind: str) -> int:
        """Rows skipped so far in training, or in this evaluation, over all ranks."""
        if kind == "train":
            return self.ledger.flush(is_writer=self.args.should_save)
        return len(self.eval_skipped.flush(is_writer=self.args.should_save, anew=True))

    @property
    def is_zero3(self) -> bool:
        """Whether every rank holds only shards of the weights."""
        plugin = self.accelerator.state.deepspeed_plugin
        return plugin is not None and plugin.zero_stage == 3

    def save_state_into(self, fresh: Path, final: Path) -> None:
        """As in `ResumableTrainer`, and a reference that moves."""
        super().save_state_into(fresh, final)
        if isinstance(self.reference, FrozenReference) and self.args.sync_ref_model and not self.is_zero3:
            path = fresh / RESUME_FOLDER / REFERENCE_WEIGHTS
            save_weights(self.reference.unwrapped.state_dict() if self.args.should_save else {}, path)

    def load_state_from(self, folder: Path) -> None:
        """As in `ResumableTrainer`, and a reference that moves."""
        super().load_state_from(folder)
        if self.args.sync_ref_model and isinstance(self.reference, FrozenReference):
            path = folder / RESUME_FOLDER / REFERENCE_WEIGHTS
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: TR-DPO cannot go on without the reference as it was (ZeRO-3 saves none)"
                )
            load_weights(self.reference.unwrapped, path)

    def _load_best_model(self) -> None:
        """As in `ResumableTrainer`, with the delta that these weights had."""
        super()._load_best_model()
        path = Path(str(self.state.best_model_checkpoint)) / PREFERENCE_STATE
        self.running_mean.load_state_dict(json.loads(path.read_text())["running_mean"])

    def run_state(self) -> dict[str, Any]:
        """BCO's delta, how many steps were skipped, and the first look at held-out answers."""
        state = {"running_mean": self.running_mean.state_dict(), "skipped_steps": self.skipped_steps}
        return state | ({"held_out": self.held_out.state_dict()} if self.held_out is not None else {})

    def load_run_state(self, state: dict[str, Any]) -> None:
        """Take back what `run_state` gave."""
        self.running_mean.load_state_dict(state["running_mean"])
        self.skipped_steps = state["skipped_steps"]
        if self.held_out is not None:
            self.held_out.load_state_dict(state.get("held_out", {}))


def _say_refusals(model: InternVLChatModel, args: MPOConfig) -> None:
    """Log why packed rows go without the kernel, where they do."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
    for refusal in kernel_refusals(model.language_model, args.device, dtype):
        logger.info("packed rows are attended to in groups, not by the varlen kernel, %s", refusal)


def _leaves_parameters_unused(model: InternVLChatModel) -> bool:
    """Whether weights to train get no gradient: those of vision layers behind the one that --vision_select_layer names.

    All others have a part in every row, those without an image too. transformers would let DDP look for unused ones
    at every step unless layers are computed again, and then not let it.
    """
    layers = model.vision_model.encoder.layers
    used = range(len(layers) + 1)[model.config.select_layer]
    return any(parameter.requires_grad for layer in layers[used:] for parameter in layer.parameters())


def _split_rows(models: Iterable[InternVLChatModel | None], size: int) -> None:
    """Let neighbouring ranks share the rows of the models that are there."""
    group = SequenceGroup.of_neighbours(size)
    for model in filter(None, models):
        split_rows(model, group)
