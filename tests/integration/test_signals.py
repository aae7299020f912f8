"""A signal to all processes of a run at once, data loader workers among them, as Slurm sends it."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.integration


def test_a_signal_to_the_whole_group_saves_and_the_rerun_ends_as_if_undisturbed(
    tiny_flags, losses_of, single_process, tmp_path
):
    flags = tiny_flags(tmp_path / "run", per_device_train_batch_size=2, dataloader_num_workers=2)
    command = [sys.executable, "-m", "tests.slurm.slow_training", *flags]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "PAUSE": "1"}, stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while ": loss " not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143, log.read_text()[-3000:]
    [checkpoint] = (tmp_path / "run").glob("checkpoint-*")
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and f"going on from {checkpoint}" in again.stderr
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(single_process), abs=1e-6)
