"""A transformers Trainer whose runs can be stopped anywhere: continued, they are the run that was never stopped.

Beside what transformers saves (optimizer, scheduler, scaler, random states, log) there are the ledger of the rows, the
weights before they were rounded for export, and what a log entry has summed so far. All of it is in a checkpoint that
is there whole or not at all (`checkpoint.files`); the position in the data follows from the number of steps
(`data.order`).
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from internvl_chat.adapters.lora import load_adapter, merged_weights, save_adapter
from internvl_chat.adapters.quantization import is_in_four_bits
from internvl_chat.checkpoint.export import EXACT_WEIGHTS, RESUME_FOLDER, export_checkpoint, save_exact_weights
from internvl_chat.checkpoint.files import SAVING, checksums, publish
from internvl_chat.checkpoint.output import OutputError, writing
from internvl_chat.checkpoint.resume import PREFERENCE_STATE, last_whole_checkpoint, load_weights
from internvl_chat.data.order import (
    EpochSampler,
    StepSampler,
    facts_of,
    order_facts,
    pairs_per_step,
    plan_facts,
    train_sampler,
)
from internvl_chat.model import load_model
from internvl_chat.model.upstream import (
    PREFIX_CHECKPOINT_DIR,
    TRAINER_STATE_NAME,
    TrainOutput,
    prepare_data_loader,
    rotate_checkpoints,
)
from internvl_chat.run.ledger import Ledger, promised
from internvl_chat.run.metrics import MetricSums
from internvl_chat.run.process import gather_objects
from internvl_chat.run.recipe import changes, follow_flags, follow_schedule, refuse
from internvl_chat.run.signals import shield

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """Trainer with an order of the data of its own, a ledger of the rows, and checkpoints that are whole.

    A subclass sets `source` before it trains, and may extend `save_state_into` and `load_state_from`.

    Attributes:
        source: folder of the checkpoint that every saved one takes after.
        ledger: of the rows trained on.
        sums: metrics since the last entry of the log, of training and of evaluation.
        made_of: what the run is made of, kept in its checkpoints, see `recipe`.
        last_saved: the newest checkpoint of this run, None before the first.
    """

    source: Path

    def __init__(self, *args: Any, sampler: EpochSampler | StepSampler | None = None, **kwargs: Any) -> None:
        """As in transformers; `sampler` gives the micro-batches where they were planned before, see `train_sampler`."""
        super().__init__(*args, **kwargs)
        self.sampler = sampler
        self.sums = {"train": MetricSums(), "eval": MetricSums()}
        self.last_saved: Path | None = None
        self.made_of: dict[str, Any] = {}
        mixture = getattr(self.train_dataset, "mixture", None)
        self.ledger = Ledger(
            mixture.datasets if mixture is not None else [],
            Path(self.args.output_dir),
            max_skipped_share=self.args.max_skipped_share,
        )
        self._is_saving = False
        self._unlogged: list[dict[str, Any]] = []  # per rank, what a checkpoint has of the log entry to come

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def data_rank(self) -> int:
        """Of the rows: ranks that share them have the same."""
        return self.rank // self.args.sequence_parallel_size

    @property
    def data_world_size(self) -> int:
        """Number of ranks with rows of their own."""
        return self.world_size // self.args.sequence_parallel_size

    @property
    def counts_rows(self) -> bool:
        """Whether this rank is the one of those that share its rows that counts them."""
        return self.rank % self.args.sequence_parallel_size == 0

    def get_train_dataloader(self) -> DataLoader:
        """The micro-batches of this rank, each position of an epoch once."""
        if self.sampler is None:
            self.sampler = train_sampler(self.train_dataset, self.args, self.data_rank, self.data_world_size)
        return self._prepared(self.train_dataset, self.sampler)

    def get_total_train_batch_size(self, args: Any) -> int:
        """Pairs of a step, however they are dealt to micro-batches."""
        return pairs_per_step(args, self.data_world_size)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The rows to evaluate on, each once over all ranks."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        sampler = EpochSampler(
            len(dataset),
            lambda epoch: range(len(dataset)),
            micro_batch_size=self.args.eval_batch_size,
            rank=self.data_rank,
            world_size=self.data_world_size,
        )
        return self._prepared(dataset, sampler)

    def _prepared(self, dataset: Any, batches: Any) -> DataLoader:
        # The sampler shares out by itself, so accelerate is to take this for a single process.
        return prepare_data_loader(
            self._loader(dataset, batches),
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=self.args.dataloader_pin_memory,
        )

    def _loader(self, dataset: Any, batches: Any, collate: Any = None) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate or self.data_collator,
            worker_init_fn=shield(None) if workers else None,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
            generator=torch.Generator(),  # else every iterator would take a number from the one that training uses
        )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, from the start or on from a checkpoint folder; True for the last whole one of the output folder.

        Raises:
            FileNotFoundError: the folder lacks what a run continues from.
            ValueError: it was made with other data or other steps.
            OutputError: something cannot be written.
            TooManySkips: more rows were skipped than `--max_skipped_share` allows.
        """
        resume: Any = resume_from_checkpoint
        if resume is True:
            resume = last_whole_checkpoint(Path(self.args.output_dir), self.rank, self.world_size)
        if resume:
            resume = str(resume)
            self.load_state_from(Path(resume))
        else:
            self.ledger.skipped.start_anew(is_writer=self.args.should_save)
        self.sums["train"].restart_clock()  # a cache of the reference may have been filled since
        result = super().train(resume or None, *args, **kwargs)
        self.ledger.flush(is_writer=self.args.should_save)
        if self.args.should_save:
            with writing(Path(self.args.output_dir) / "ledger.json", self._kept()):
                self.ledger.write(Path(self.args.output_dir), self._promised())
        return result

    def _promised(self) -> int:
        if self.train_dataset is None:
            return 0
        step_size = pairs_per_step(self.args, self.data_world_size)
        return promised(self.state.global_step, len(self.train_dataset), step_size)

    def _kept(self) -> str:
        return f"The last whole checkpoint is {self.last_saved}" if self.last_saved else "No checkpoint is there yet"

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, which would take a step more where a run is resumed at its last one."""
        self._load_unlogged()
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """A step is done: settle its rows, then as in transformers."""
        was_skipped = self.accelerator.optimizer_step_was_skipped
        self.ledger.settle("the gradient overflowed, this step changed no weights" if was_skipped else None)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _get_output_dir(self, trial: Any = None) -> str:
        """The output folder, or its folder of unfinished checkpoints while one is written."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / SAVING) if self._is_saving else folder

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Export a checkpoint that other tools load; every saved one, not only the last. All ranks call, one writes."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        with writing(folder, self._kept()):
            self._export(self.accelerator.unwrap_model(self.model), folder, state_dict)

    def _export(self, model: Any, folder: Path, weights: dict[str, torch.Tensor] | None) -> None:
        """Write adapters as such, and the whole model with them merged unless `--save_adapter_only`.

        Where the model is in 4 bits they are merged into the weights of its source, read again for that.
        """
        if has_adapters(model):
            weights = model.state_dict() if weights is None else weights
            save_adapter(model, weights, folder)
            if self.args.save_adapter_only:
                return
            base = load_model(self.source, config=model.config).state_dict() if is_in_four_bits(model) else None
            weights = merged_weights(model, weights, base)
        export_checkpoint(model, self.source, folder, state_dict=weights)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save a checkpoint, which gets its name when all of it is written, and only then replaces another.

        Raises:
            OutputError: it could not be written; what was saved before is as it was.
        """
        final = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        fresh = final.parent / SAVING / final.name
        try:
            with writing(final, self._kept()):
                self._write_checkpoint(fresh, final, model, trial)
        except OutputError:
            shutil.rmtree(fresh.parent, ignore_errors=True)  # half a checkpoint only fills the disk
            raise
        self.last_saved = final

    def _write_checkpoint(self, fresh: Path, final: Path, model: torch.nn.Module, trial: Any) -> None:
        if self.args.should_save:
            shutil.rmtree(fresh.parent, ignore_errors=True)  # left by a kill
        self.accelerator.wait_for_everyone()
        self.ledger.flush(is_writer=self.args.should_save)
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_saving = False
        self.save_state_into(fresh, final)
        self.accelerator.wait_for_everyone()
        files = checksums(fresh, self.rank, self.world_size)
        if self.args.should_save:
            publish(fresh, final, files)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(final.parent), self.args.save_total_limit, best, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def save_state_into(self, fresh: Path, final: Path) -> None:
        """Add to a checkpoint what transformers does not save; a collective.

        Args:
            fresh: where it is written.
            final: where it will be.
        """
        unlogged = gather_objects(self._unlogged_state())
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(final)  # not the name that it had while it was written
        if not self.args.should_save:
            return
        self.state.save_to_json(str(fresh / TRAINER_STATE_NAME))
        self.ledger.write(fresh / RESUME_FOLDER, self._promised())
        own = self.accelerator.unwrap_model(self.model)
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled or has_adapters(own)):  # they keep exact ones
            save_exact_weights(own, self.source, fresh)
        state = {**self.run_state(), "data": self._data_facts(), "recipe": self.made_of, "unlogged": unlogged}
        (fresh / PREFERENCE_STATE).write_text(json.dumps(state))

    def run_state(self) -> dict[str, Any]:
        """What a subclass keeps in a checkpoint, as JSON; the same on all ranks."""
        return {}

    def load_state_from(self, folder: Path) -> None:
        """Take back from a checkpoint what transformers does not.

        Raises:
            FileNotFoundError: it lacks that.
            ValueError: it was made with other data or other steps.
        """
        path = folder / PREFERENCE_STATE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no BCO delta to resume with; is this a checkpoint of an MPO run?")
        state = json.loads(path.read_text())
        refuse(folder, changes(facts_of(state["data"]), self._data_facts()))
        self.load_run_state(state)
        self.ledger.load(folder / RESUME_FOLDER, is_writer=self.args.should_save)
        self._unlogged = state["unlogged"]
        self.last_saved = folder

    def load_run_state(self, state: dict[str, Any]) -> None:
        """Take back what `run_state` gave."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """As in transformers, then the weights that the export had rounded; with LoRA the adapter alone."""
        own, folder = self.model if model is None else model, Path(resume_from_checkpoint)
        if has_adapters(own):
            load_adapter(own, folder)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            load_weights(own, folder / RESUME_FOLDER / EXACT_WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As in transformers, then rate, decay and betas by the flags of this start; sharded ones keep the loaded."""
        if checkpoint is None:
            return
        fresh = [dict(group) for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            follow_flags(self.optimizer.param_groups, fresh)
        follow_schedule(self.lr_scheduler)

    def _load_best_model(self) -> None:
        """As resumed from: transformers' own loader does not know adapters and exact weights of this layout."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _data_facts(self) -> dict[str, Any]:
        datasets = {name: counts.data for name, counts in self.ledger.counts.items()}
        planned = plan_facts(self.sampler, self.args) if self.sampler is not None else {}
        return order_facts(datasets, self.args, self.data_world_size) | planned

    def _unlogged_state(self) -> dict[str, Any]:
        """What this rank has summed since the last entry of the log."""
        return {
            "loss": self._tr_loss.item(),
            "steps": self.state.global_step - self._globalstep_last_logged,
            "sums": self.sums["train"].state_dict(),
        }

    def _load_unlogged(self) -> None:
        """Go on with the log entry that was begun before the checkpoint."""
        states, self._unlogged = self._unlogged, []
        if not states:
            return
        if len(states) != self.world_size:  # the loss is a mean over ranks, the sums go to the first
            loss = sum(state["loss"] for state in states) / len(states)
            mine = states if self.rank == 0 else []
        else:
            loss, mine = states[self.rank]["loss"], [states[self.rank]]
        self._tr_loss.fill_(loss)
        self._total_loss_scalar -= self._tr_loss.item()  # of steps that this call did not take
        self._globalstep_last_logged -= states[0]["steps"]
        self.sums["train"].load_state_dicts([state["sums"] for state in mine])


def has_adapters(model: torch.nn.Module) -> bool:
    """Whether peft has put adapters into a model: it leaves their configuration there."""
    return hasattr(model, "peft_config")
