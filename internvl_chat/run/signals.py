"""Stop in good order when the scheduler says so: SIGTERM (cancelled) or SIGUSR1 (the time limit is near).

During training every rank finishes its step, all agree, a checkpoint is saved and the process ends with 128 + signal,
as if the signal had ended it. Before and after training there is nothing to save: the process ends at once.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(TrainerCallback):
    """Saves and stops at the end of the step in which a signal reached any rank.

    Attributes:
        received: number of the signal that this rank, or after a stop any rank, has received; 0 for none.
    """

    def __init__(self) -> None:
        """Nothing is taken over before `with`."""
        self.received = 0
        self._is_training = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        """Take over the signals of this process, which only its main thread can."""
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back, unless the process is about to end because of one."""
        if not self.received:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_training:
            raise SystemExit(128 + number)
        self.received = self.received or number

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on a signal waits for the end of its step."""
        self._is_training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask all ranks; the signal reaches them in different steps, or only one of them."""
        self.received = highest_of_ranks(self.received)
        if self.received:
            logger.info("%s: saving step %d and stopping", signal.Signals(self.received).name, state.global_step)
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From here on a signal ends the process."""
        self._is_training = False

    def leave(self) -> None:
        """After training: end the process if a signal stopped it, all ranks together.

        The first rank that is gone lets Slurm end the others, so none leaves while another still saves.
        """
        if self.received:
            PartialState().wait_for_everyone()
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            raise SystemExit(128 + self.received)


def highest_of_ranks(value: int) -> int:
    """The highest value of all ranks, on all of them; a collective."""
    if PartialState().num_processes == 1:
        return value
    highest = torch.tensor(value, device=PartialState().device)
    torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
    return int(highest)


def shield(worker_init: Callable[[int], None] | None) -> Callable[[int], None]:
    """A `worker_init_fn` that first makes the data loader's process deaf to the signals.

    Slurm sends them to every process of a task. Its main process needs the loader until the step is done, and ends it.
    """
    return partial(_start_deaf, worker_init)


def _start_deaf(worker_init: Callable[[int], None] | None, worker: int) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if worker_init is not None:
        worker_init(worker)
