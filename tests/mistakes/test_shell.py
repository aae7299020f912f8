"""What users of the launchers get wrong: told by the shell before a process of ours starts, in a line."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.mistakes.mistake import Mistake, check_ending, each

ROOT = Path(__file__).parents[2]
LAUNCHER = "shell/internvl2.5_mpo/preference_optimization/internvl2_5_1b_qwen2_5_0_5b_dynamic_res_mpo.sh"
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "GPUS", "BATCH"))}


def check(mistake, script=""):
    """`words` are settings of the environment, the script unless it is given, and flags."""
    words = mistake.words.split()
    settings = dict(word.split("=", 1) for word in words if word.partition("=")[0].isupper())
    command = ["sh", *([script] if script else []), *(word for word in words if not word.partition("=")[0].isupper())]
    environment = {**PLAIN, "PYTHON": "false", "DRY_RUN": "1", **settings}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    check_ending(done.returncode, done.stderr, mistake)


@each(
    Mistake("gpus_in_words", "GPUS=abc LAUNCHER=torchrun", ("GPUS=abc is not a whole number",)),
    Mistake("no_gpus", "GPUS=0 LAUNCHER=torchrun", ("GPUS=0 is not a whole number of at least 1",)),
    Mistake("half_a_node", "GPUS=12 LAUNCHER=torchrun", ("GPUS=12 do not fill nodes of GPUS_PER_NODE=8", "multiple")),
    Mistake("batch", "GPUS=3 BATCH_SIZE=256 LAUNCHER=torchrun", ("BATCH_SIZE=256 is no multiple of the 3 pairs",)),
    Mistake("per_device", "PER_DEVICE_BATCH_SIZE=0 GPUS=8 LAUNCHER=torchrun", ("PER_DEVICE_BATCH_SIZE=0",)),
    Mistake("launcher", "LAUNCHER=slrum GPUS=8", ("LAUNCHER=slrum is unknown: slurm, torchrun or local",)),
    Mistake("sharing", "GPUS=8 LAUNCHER=torchrun --sequence_parallel_size 3", ("GPUS=8", "--sequence_parallel_size 3")),
    Mistake("quotes", "SRUN_ARGS=--comment='a GPUS=8 LAUNCHER=slurm", ("SRUN_ARGS", "a quote is open")),
    Mistake("cpus", "CPUS_PER_TASK=-1 GPUS=8 LAUNCHER=slurm", ("CPUS_PER_TASK=-1",)),
    Mistake("several_nodes", "DRY_RUN= GPUS=16 BATCH_SIZE=16 LAUNCHER=torchrun", ("MASTER_ADDR", "NODE_RANK")),
)
def test_launchers(mistake):
    check(mistake, LAUNCHER)


@each(
    Mistake("no_module", "shell/launch.sh", ("name a module, such as internvl_chat.train_mpo",)),
    Mistake("no_prompts", "shell/improve.sh ckpt/tiny-base", ("name a checkpoint and a prompt file",)),
    Mistake("no_rounds", "shell/improve.sh c p --rounds 0", ("--rounds 0 is not a whole number",)),
    Mistake("misspelt_flag", "shell/improve.sh c p --round 2", ("--round is unknown",)),
    Mistake("no_checkpoint", "shell/serve.sh", ("checkpoint|CHECKPOINT",)),
)
def test_scripts(mistake):
    check(mistake)


@pytest.mark.parametrize("name", ["correctness_sample", "dropout_ntp", "visualprm_sample"])
def test_data_launchers(name):
    script = f"shell/mpo_data_construction/{name}.sh"
    check(Mistake(name, "PROMPTS=none.jsonl GPUS=9 LAUNCHER=torchrun", ("GPUS=9 do not fill nodes",)), script)


@pytest.mark.parametrize("name", ["dropout_ntp", "visualprm_sample"])
def test_data_launchers_without_prompts(name):
    check(Mistake(name, "", (f"{name}.sh: PROMPTS is empty: name",)), f"shell/mpo_data_construction/{name}.sh")
