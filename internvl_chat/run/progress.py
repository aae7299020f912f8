"""How a run shows that it goes on: one readable line per logged step, its full record beside it.

    21:04:12 step 120/2000 (6.0 %), 0:38:10 left: loss 0.5012, margin 0.214, accuracy 0.734, rate 7.00e-06, 12.3 pairs/s

The record, every figure of the step at full precision, goes to `log.jsonl` in the output folder, a line per entry; a
run that goes on from a checkpoint appends, and of two entries of one step the later counts. On a terminal a bar moves
below the lines; elsewhere (srun, a file) lines are all there is, so that nothing is torn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm
from transformers import (
    IntervalStrategy,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from internvl_chat.records.durable import json_line
from internvl_chat.run.bars import track

RECORD_NAME = "log.jsonl"
LINE_SECONDS = 60.0  # between two lines on a long wait before training
SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "eval_loss": ("eval loss", "{:.4f}"),
    "rewards/margins": ("margin", "{:.3f}"),
    "eval_rewards/margins": ("eval margin", "{:.3f}"),
    "rewards/accuracies": ("accuracy", "{:.3f}"),
    "eval_rewards/accuracies": ("eval accuracy", "{:.3f}"),
    "eval_accuracy": ("held-out answers right", "{:.1%}"),
    "eval_accuracy_change": ("since the first look", "{:+.1%}"),
    "eval_accuracy_change_low": ("from", "{:+.1%}"),
    "eval_accuracy_change_high": ("to", "{:+.1%}"),
    "eval_logps/right_change": ("log-probs of right ones", "{:+.2f}"),
    "eval_logps/wrong_change": ("of wrong ones", "{:+.2f}"),
    "eval_answers_seconds": ("", "{:.0f} s"),
    "grad_norm": ("gradient norm", "{:.3g}"),
    "learning_rate": ("rate", "{:.2e}"),
    "pairs_per_second": ("", "{:.3g} pairs/s"),
    "skipped_rows": ("skipped rows", "{:.0f}"),
}
"""Key of a log entry -> its word in the line, and how its value is written."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


class StepLines(TrainerCallback):
    """Writes a line and the full record of every log entry, on the first rank."""

    def __init__(self, folder: Path) -> None:
        """Take the output folder of the run."""
        self.record = folder / RECORD_NAME
        self._begin, self._first_step = 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The time that is left is reckoned from the steps of this call."""
        self._begin, self._first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the last step, too: a short run, or the end of a long one, is else told of by no entry."""
        if state.global_step >= state.max_steps and args.logging_strategy == IntervalStrategy.STEPS:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Say what was logged."""
        if not state.is_world_process_zero or not logs:
            return
        with self.record.open("ab") as file:
            file.write(json_line({"step": state.global_step, "time": time.time(), **logs}))
        line = step_line(logs, state.global_step, state.max_steps, self._left(state))
        tqdm.write(f"{time.strftime('%H:%M:%S')} {line}")

    def _left(self, state: TrainerState) -> float | None:
        """Seconds to the last step at the pace so far; None where no step of this call is done."""
        done = state.global_step - self._first_step
        if done <= 0 or state.global_step >= state.max_steps:
            return None
        return (time.monotonic() - self._begin) / done * (state.max_steps - state.global_step)


class SilentBar(ProgressCallback):
    """The bar of transformers without its way of writing entries, a dictionary of everything."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """`StepLines` writes."""


def step_line(logs: dict[str, float], step: int, steps: int, left: float | None) -> str:
    """One line on an entry of the log.

    Args:
        logs: figures by name; those of SHOWN are written, an entry without any of them is written whole.
        step: done so far.
        steps: of the run.
        left: seconds, None where nobody knows.
    """
    words = [f"{word} {text.format(logs[key])}".strip() for key, (word, text) in SHOWN.items() if key in logs]
    words = words or [f"{key} {value:.6g}" for key, value in logs.items() if isinstance(value, int | float)]
    share = f" ({100 * step / steps:.1f} %)" if steps > 0 else ""
    until = f", {timedelta(seconds=round(left))} left" if left is not None else ""
    return f"step {step}/{steps}{share}{until}: {', '.join(words)}"


def shown_batches(batches: Iterable[T], sizes: Sequence[int], what: str, *, bar: bool) -> Iterator[T]:
    """Batches as they come, with the rows done and the time left: by a bar, else by a line a minute.

    Args:
        batches: as many as there are `sizes`.
        sizes: rows of each.
        what: is done with them.
        bar: there is somebody who looks on.
    """
    begin = said = time.monotonic()
    done, total = 0, sum(sizes)
    with track(total=total, desc=what, unit="row", disable=not bar) as progress:
        for batch, size in zip(batches, sizes, strict=True):
            yield batch
            progress.update(size)
            done, now = done + size, time.monotonic()
            if not bar and now - said > LINE_SECONDS and done < total:
                left = timedelta(seconds=round((now - begin) / done * (total - done)))
                logger.info("%s: %d of %d rows of this rank, %s left", what, done, total, left)
                said = now


def show_steps(trainer: Trainer, folder: Path) -> None:
    """Let a trainer write lines in place of dictionaries, below a bar where there is a terminal."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(SilentBar())
    trainer.add_callback(StepLines(folder))
