"""The documented commands of critics at their smallest, in the order of the pages: from prompts to a critic in use.

Commands are those of the pages, word for word. What a tiny model on a CPU needs stands behind them: later flags win.
"""

import json
import re
import shlex
import shutil
from itertools import dropwhile
from pathlib import Path

import pytest

from data.make_visual_reasoning import main as draw
from internvl_chat.data.images import load_image
from internvl_chat.model import load_config
from tests.in_process import ROOT, run_here, started_by
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair

BASE = str(ROOT / "ckpt" / "tiny-base")
PROMPTS = "MMPR-v1.2-prompts/correctness_prompts/geometry.jsonl"
ASK = "--max-num 1 --max-new-tokens 64 --engine transformers --batch-size 8"
SIZE = f"--model_name_or_path {BASE} --force_image_size 56 --max_dynamic_patch 1 --max_seq_length 2048"
TRAIN = f"""{SIZE} --max_steps 2 --gradient_accumulation_steps 1 --learning_rate 1e-3 --bf16 False --save_strategy no
--report_to none --disable_tqdm True --dataloader_num_workers 0"""
HALF = "--sweep-share 0.5"  # of three questions
CHOOSE = f"--checkpoint {BASE} --samples 2 --critic-max-num 1 {ASK}"


def page(name):
    """The text of a page, commands in one line each."""
    return re.sub(r" *\\\n *", " ", (ROOT / "docs" / f"{name}.md").read_text())


def run(name, beginning, more=""):
    """Run, in this process, the command of a page that begins so; of a launcher what it would start."""
    lines = {line.split(" #")[0].strip() for line in page(name).splitlines()}
    [command] = [line for line in lines if line.startswith(beginning)]
    words = [*dropwhile(lambda word: "=" in word, shlex.split(command))]
    words = started_by(command) if words[0] == "sh" else words[1:]
    if "--deepspeed" in words:  # for the many ranks of the launcher
        at = words.index("--deepspeed")
        del words[at : at + 2]
    assert not run_here([*words, *more.split()]), command


@pytest.mark.integration
def test_from_prompts_to_a_critic_and_its_use(work):
    world = Path("work_dirs/quickstart/data")
    draw(["--out", str(world), "--pairs", "6", "--held_out", "3"])
    for folder in ("images", "VisualProcessBench"):
        shutil.copytree(world / "images", folder, dirs_exist_ok=True)
    Path(PROMPTS).parent.mkdir(parents=True)
    shutil.copy(world / "train_en_prompts.jsonl", PROMPTS)
    shutil.copy(world / "held_out_en_prompts.jsonl", ".")
    train_a_critic()
    choose_and_score()
    measure_it()


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
    """docs/best_of_n.md, and what improve.sh does with a critic."""
    run("best_of_n", "python tools/evaluate.py --checkpoint ckpt/InternVL2_5-8B --critic work_dirs/prm --reasoned "
        "held_out_en_prompts.jsonl --samples 8 --temperature 1", CHOOSE)  # fmt: skip
    found = json.loads(Path("work_dirs/best_of_8.json").read_text())["best_of"]["reasoned"]
    assert found["samples"] == 2 and found["unscored"] == 0 and [row["n"] for row in found["over"]] == [1, 2]
    asked = f"--checkpoint {BASE} --prompt-path {PROMPTS} --out-dir sampled/correctness --num-return-sequences 4"
    assert sample(f"{asked} --dynamic {ASK}".split()) == 0
    run("best_of_n", "python tools/score_steps.py", "--max-num 1")
    rows = [json.loads(line) for path in Path("scored").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(rows) == 24 and all(0 < row["score"] < 1 and row["steps_with_score"] for row in rows)
    run("best_of_n", "python tools/reasoning_data_pipeline/reward_pairs.py", "--min-margin 0 --num-workers 1")
    run("best_of_n", "python tools/reasoning_data_pipeline/visualprm_data_pipeline_postprocess.py", "--num-workers 1")
    pair(["--data-dir", "scored", "--save-dir", "pairs", "--by-score", "--num-workers", "1"])
    [pairs] = Path("pairs/raw").glob("*_correctness_rules.jsonl")
    assert all("chosen_score" in json.loads(line) for line in pairs.read_text().splitlines())


def measure_it():
    """docs/critics.md"""
    run("critics", "python data/make_process_rows.py")
    run("critics", "python tools/evaluate_critic.py --benchmark work_dirs/quickstart", f"--critic {BASE} {HALF}")
    shutil.copy("work_dirs/quickstart/slips.jsonl", "VisualProcessBench/test.jsonl")
    # of three questions the sweep may find none on its side
    run("critics", "python tools/evaluate_critic.py --benchmark VisualProcessBench", "--max-num 1 --threshold 0.5")
    assert json.loads(Path("work_dirs/prm/critic.json").read_text())["scored"] == "work_dirs/prm"
