"""Run one thing and print the peak of resident memory above the imports, in bytes.

python -m tests.peak_memory train FLAGS... | load CHECKPOINT | export CHECKPOINT FOLDER
"""

import sys
import threading
from pathlib import Path

import torch

from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.model import load_model
from internvl_chat.training import train


def resident_bytes():
    """Resident memory; weights that were read and not changed since are pages of their file, which count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def touch(model):
    """Read every weight: pages of a file count only once they are used."""
    return sum(float(parameter.sum()) for parameter in model.parameters())


RUNS = {
    "train": lambda *flags: train(list(flags)),
    "load": lambda source: touch(load_model(source, dtype=torch.float32)),
    "export": lambda source, folder: export_checkpoint(load_model(source, dtype=torch.float32), source, folder),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    before, peak, done = resident_bytes(), [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    RUNS[sys.argv[1]](*sys.argv[2:])
    done.set()
    watcher.join()
    print("peak", peak[0] - before)
