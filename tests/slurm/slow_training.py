"""`train_mpo` as tests interrupt it: PAUSE seconds after each step, and rank r killed at step s for KILL_AT=r:s."""

import os
import signal
import time

from internvl_chat import train_mpo, training
from internvl_chat.run.entry import enter
from internvl_chat.run.signals import StopOnSignal


class SlowSteps(StopOnSignal):
    """Leaves time to be stopped; a job that Slurm has started again is in no need of it."""

    def on_step_end(self, args, state, control, **kwargs):
        if os.environ.get("KILL_AT") == f"{args.process_index}:{state.global_step}":
            os.kill(os.getpid(), signal.SIGKILL)
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(float(os.environ.get("PAUSE", "0")))
        super().on_step_end(args, state, control, **kwargs)


if __name__ == "__main__":
    training.StopOnSignal = SlowSteps
    enter(train_mpo.main)
