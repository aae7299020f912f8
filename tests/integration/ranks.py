"""Trainings in several processes of this machine, forked from a server that has imported everything once."""

import faulthandler
import multiprocessing
import os
import sys
import time

from internvl_chat.run.process import free_port

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.integration.preload"])


def train(argv, *, world, log, target=None, timeout=240):
    """Run `train_mpo` with these flags on `world` ranks; RuntimeError with their output if one fails.

    `target` is what a rank runs in place of `_rank`, with its arguments; `timeout` is in seconds, of all ranks.
    """
    port = free_port()
    how = (world, port, argv, str(log))
    processes = [FORKED.Process(target=target or _rank, args=(rank, *how)) for rank in range(world)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if any(code != 0 for code in codes):  # None of one that hangs
        raise RuntimeError(f"exit codes {codes}; {log}: {log.read_text()[-4000:]}")


def _rank(rank, world, port, argv, log):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    with open(log, "a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    faulthandler.enable()  # a crash in native code says where
    from internvl_chat.train_mpo import main

    main(argv)
