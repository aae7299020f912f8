"""A run that hangs says where: when a step takes far longer than usual, all stacks of the process go to a file."""

from __future__ import annotations

import faulthandler
import logging
import statistics
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

logger = logging.getLogger(__name__)

STEPS_REMEMBERED = 50
USUAL_FACTOR = 10


class Watchdog(TrainerCallback):
    """A thread that waits for signs of life: the callbacks of the Trainer, which come at least once a step.

    The limit is ten times the median of the last 50 steps, at least `seconds`. A silence is reported once.

    Attributes:
        path: where the stacks of this rank go, each dump behind the one before.
        dumps: how many there were.
    """

    def __init__(self, folder: Path, rank: int, seconds: float) -> None:
        """Prepare; the thread runs from the begin of training to its end.

        Args:
            folder: output folder.
            rank: of this process, for the name of the file.
            seconds: shortest silence that is reported, 0 for no watch.
        """
        self.path = folder / f"stacks-rank{rank}.txt"
        self.seconds = seconds
        self.dumps = 0
        self.durations: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self.alive_at = self.step_began = 0.0
        self._over = threading.Event()

    def limit(self) -> float:
        """Seconds of silence that are too many."""
        usual = statistics.median(self.durations) if self.durations else 0.0
        return max(self.seconds, USUAL_FACTOR * usual)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start to watch."""
        if self.seconds > 0:
            self._alive()
            self._over.clear()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Watch no longer; also called when an error ends the training."""
        self._over.set()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The data of a step are there."""
        self._alive()
        self.step_began = self.alive_at

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step is done."""
        self._alive()
        self.durations.append(self.alive_at - self.step_began)

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        """A micro-batch is done."""
        self._alive()

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """A batch of evaluation is done."""
        self._alive()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint is saved."""
        self._alive()

    def _alive(self) -> None:
        self.alive_at = time.monotonic()

    def _watch(self) -> None:
        reported = 0.0  # the sign of life after which a silence was reported
        while not self._over.wait(min(1.0, self.seconds / 4)):
            silence = time.monotonic() - self.alive_at
            if silence > self.limit() and self.alive_at != reported:
                reported = self.alive_at
                self._dump(silence)

    def _dump(self, silence: float) -> None:
        usual = f"{statistics.median(self.durations):.1f} s" if self.durations else "not known yet"
        told = f"no sign of life for {silence:.0f} s (a step usually takes: {usual})"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {told}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            logger.warning("%s; the stacks could not be written to %s (%s)", told, self.path, error)
            return
        finally:
            self.dumps += 1
        logger.warning("%s: the stacks of all threads are in %s", told, self.path)
