"""The three data pipelines by their commands on two processes, and a training on the pairs of each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.make_visual_reasoning import make_visual_reasoning, parse_arguments
from internvl_chat.critic.answers import answer_score
from internvl_chat.critic.scoring import StepCritic
from internvl_chat.model.critic_turns import MAX_STEPS, split_steps
from internvl_chat.train_mpo import main
from tests.flags import as_flags

ROOT = Path(__file__).parents[2]
STAGES = ROOT / "tools" / "reasoning_data_pipeline"
BASE = ROOT / "ckpt" / "tiny-base"
SAMPLING = ["--engine", "transformers", "--dynamic", "--max-num", "3", "--max-new-tokens", "96"]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_visual_reasoning(parse_arguments(f"--out {folder} --pairs 24 --held_out 1".split()))
    return folder


def on_two_processes(script, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", STAGES / script, "--checkpoint", BASE]
    subprocess.run([str(word) for word in [*command, *SAMPLING, *words]], cwd=ROOT, check=True, timeout=300)


def postprocess(script, *words):
    subprocess.run([sys.executable, str(STAGES / script), *map(str, words)], cwd=ROOT, check=True, timeout=300)


def train(meta, folder, **more):
    """Losses of three steps on the mixture."""
    flags = f"--model_name_or_path {BASE} --meta_path {meta} --output_dir {folder} --force_image_size 56 --max_steps 3"
    flags += " --max_dynamic_patch 3 --per_device_train_batch_size 4 --logging_steps 1 --save_strategy no"
    main([*flags.split(), "--report_to", "none", "--disable_tqdm", "True", *as_flags(more)])
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert json.loads((folder / "train_results.json").read_text())["skipped_rows"] == 0
    return [entry["loss"] for entry in log if "loss" in entry]


def test_pairs_by_correctness_train(world, tmp_path):
    prompts = world / "train_en_prompts.jsonl"
    script = "mmpr_data_pipeline_correctness.py"
    on_two_processes(script, "--prompt-path", prompts, "--out-dir", tmp_path / "sampled", "--num-return-sequences", 8)
    script = "mmpr_data_pipeline_correctness_postprocess.py"
    postprocess(script, "--data-dir", tmp_path / "sampled", "--save-dir", tmp_path / "pairs", "--answer-fix")
    assert len(train(tmp_path / "pairs" / "meta.json", tmp_path / "run")) == 3


def test_pairs_by_dropout_ntp_train(world, tmp_path):
    rows = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    prompts = tmp_path / "ntp.jsonl"
    prompts.write_text("".join(json.dumps({**row, "rejected": None}) + "\n" for row in rows))
    script, images = "mmpr_data_pipeline_dropout_ntp.py", world / "images"
    on_two_processes(script, "--prompt-path", prompts, "--image-root", images, "--out-dir", tmp_path / "sampled")
    (found,) = (tmp_path / "sampled").rglob("ntp.jsonl")
    meta = {"ntp": {"root": str(images), "annotation": str(found), "repeat_time": 1}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert len(train(tmp_path / "meta.json", tmp_path / "run")) == 3


def test_pairs_by_step_scores_train_and_so_does_a_critic_that_scores_them(world, tmp_path):
    words = ["--prompt-path", world / "train_en_prompts.jsonl", "--out-dir", tmp_path / "sampled"]
    on_two_processes("visualprm_data_pipeline.py", *words, "--num-return-sequences", 4, "--num-mc-sequences", 4)
    script = "visualprm_data_pipeline_postprocess.py"
    flags = ["--data-dir", tmp_path / "sampled", "--save-dir", tmp_path / "pairs", "--min-gap", 0, "--include-orm-data"]
    postprocess(script, *flags)
    assert len(train(tmp_path / "pairs" / "meta.json", tmp_path / "run")) == 3
    critic = tmp_path / "critic"
    train(tmp_path / "pairs" / "prm_meta.json", critic, loss_type="prm", group_by="prompt", max_seq_length=2048)
    (sampled,) = (tmp_path / "sampled").rglob("train_en_prompts.jsonl")
    rows = [json.loads(line) for line in sampled.read_text().splitlines()]
    asked = [row for row in rows if (row["image"], row["question"]) == (rows[0]["image"], rows[0]["question"])]
    candidates = [split_steps(row["response"], MAX_STEPS) for row in asked]
    with Image.open(world / rows[0]["image"]) as picture:
        scores = StepCritic.load(critic, device="cpu").score(rows[0]["question"], [picture], candidates)
    assert [len(of_answer) for of_answer in scores] == [len(steps) for steps in candidates]
    assert max(candidates, key=lambda steps: answer_score(scores[candidates.index(steps)])) in candidates
