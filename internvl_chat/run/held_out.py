"""Held-out questions that a run is asked on its way, so that training that makes a model worse is seen in time.

    python -m internvl_chat.train_mpo ... --eval_prompts held_out_en_prompts.jsonl --eval_steps 20

Loss, margin and reward accuracy look healthy on rows that are trained on, whatever becomes of the answers. So before
the first step, every `--eval_steps` optimizer steps and behind the last one the policy answers the same questions. A
fall beyond chance stops the run with a checkpoint and exit code 1, or is a warning with `--on_fall warn`.

This module says when and what follows; what is asked, how answers are judged and what a fall is says a `HeldOut`, which
the entry names: engines and answer checks stand outside the library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from internvl_chat.arguments import MPOConfig
from internvl_chat.model.upstream import PREFIX_CHECKPOINT_DIR
from internvl_chat.run.entry import Finding

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What a policy answered at one step.

    Attributes:
        figures: for the log, by name.
        fall: what shows that answers got worse since the first look, in words; "" where nothing does beyond chance.
        warning: what else points to harm, and is not enough to stop; "" for nothing.
    """

    figures: dict[str, float]
    fall: str = ""
    warning: str = ""


class HeldOut(Protocol):
    """Asks a policy the same questions at every look, and compares with the first one. The same on all ranks."""

    def look(self, model: Any, alive: Callable[[], object]) -> Look:
        """Ask the policy, in evaluation mode and with its own weights whole on each rank; a collective.

        It takes no number from the generators of training. `alive` is called now and then.
        """

    def state_dict(self) -> dict[str, Any]:
        """The first look, as JSON values; {} before it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take the first look of a checkpoint; False where that was of other questions, or there is none."""


class HeldOutGuard(TrainerCallback):
    """Looks when it is time, logs what is seen, and ends the run where answers got worse.

    Attributes:
        fall: why the run was stopped; "" as long as it was not.
    """

    def __init__(self, held_out: HeldOut, args: MPOConfig, log: Callable[[dict[str, float]], None]) -> None:
        """Take the questions, the flags, and what writes an entry of the log."""
        self.held_out, self.log = held_out, log
        self.autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self.alive: Callable[[], object] = lambda: None
        self.fall, self.fall_step = "", 0
        self.good_step: int | None = None  # the newest look that saw no fall

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the policy before its first step; a run that goes on has that look in its checkpoint."""
        if not self.held_out.state_dict():
            if state.global_step:
                logger.warning("held-out answers are compared with those of step %d, not 0", state.global_step)
            self._look(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look every so many steps and behind the last; all ranks see the same and decide alike."""
        if state.global_step % state.eval_steps and state.global_step < state.max_steps:
            return
        look = self._look(state, kwargs["model"])
        if look.fall and args.on_fall == "stop":  # type: ignore[attr-defined]  # args are an MPOConfig
            self.fall, self.fall_step = look.fall, state.global_step
            control.should_save = control.should_training_stop = True

    def _look(self, state: TrainerState, model: Any) -> Look:
        was_training = model.training
        model.eval()
        try:
            device = next(model.parameters()).device.type
            with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
                look = self.held_out.look(model, self.alive)
        finally:
            model.train(was_training)
        self.log(dict(look.figures))
        if not look.fall:
            self.good_step = state.global_step
        for words in filter(None, (look.fall, look.warning)):
            logger.warning("step %d: %s", state.global_step, words)
        return look

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the first look, and the newest that saw no fall."""
        return {"first": self.held_out.state_dict(), "good_step": self.good_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; {} of a checkpoint that has no look."""
        if self.held_out.load_state_dict(state.get("first", {})):
            self.good_step = state["good_step"]

    def leave(self, folder: Path) -> None:
        """After training: end the process with exit code 1 if a fall stopped it.

        Args:
            folder: output folder of the run.

        Raises:
            Finding: says what fell, which checkpoint is from before, and what to do; on all ranks.
        """
        if self.fall:
            raise Finding(f"step {self.fall_step}: {self.fall}\n{self._kept(folder)}\n{CURE}")

    def _kept(self, folder: Path) -> str:
        """Where the run was saved, and which checkpoint there is from before the fall."""
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*[0-9]")]
        good = max((step for step in steps if self.good_step is not None and step <= self.good_step), default=None)
        saved = f"This step is saved in {folder / f'{PREFIX_CHECKPOINT_DIR}-{self.fall_step}'}"
        if good is None:
            return f"{saved}; none is from before the fall: a smaller --save_steps keeps one"
        return f"{saved}; {PREFIX_CHECKPOINT_DIR}-{good} is from before the fall"


CURE = (
    "Lower --learning_rate, raise --rpo_alpha or --beta, use more questions, or look at the pairs; "
    "--on_fall warn goes on. See docs/reading_curves.md"
)
