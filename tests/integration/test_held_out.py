"""Held-out questions in runs of several processes, with adapters, in bfloat16; and the benchmark in its short form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from internvl_chat.train_mpo import main
from tests.integration.ranks import train
from tools.visual_reasoning.tasks import NUMBERS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
BASE = ROOT / "ckpt" / "tiny-base"
FIGURES = ("eval_accuracy", "eval_accuracy_change", "eval_logps/right", "eval_logps/wrong_change")


@pytest.fixture
def flags(tiny_flags, golden_folder, tmp_path):
    """Function from the folder of a run of two steps to its flags: it looks at questions of which it knows some."""
    pictures = sorted((golden_folder / "data" / "images").glob("*.png"))[:6]
    rows = [
        {"image": str(path), "question": f"How many shapes are circles? {n}", "answer": answer}
        for n, path in enumerate(pictures)
        for answer in (list(NUMBERS), "none of them")
    ]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"eval_prompts": tmp_path / "held_out.jsonl", "eval_steps": 1, "eval_max_new_tokens": 48}
    asked |= {"eval_prompt_version": "en", "on_fall": "warn"}  # two steps from anywhere may well make it worse
    settings = {"model_name_or_path": BASE, "max_steps": 2, "save_strategy": "no"}
    return lambda folder, **changes: tiny_flags(folder, **asked, **settings, **changes)


def looks(folder):
    """{step: figures} of a run."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: {name: entry[name] for name in FIGURES} for entry in entries if "eval_accuracy" in entry}


def test_two_ranks_share_the_questions_and_see_what_one_sees(flags, tmp_path):
    main(flags(tmp_path / "one", per_device_train_batch_size=2))
    train(flags(tmp_path / "two"), world=2, log=tmp_path / "log")
    one, two = looks(tmp_path / "one"), looks(tmp_path / "two")
    assert list(one) == [0, 1, 2] and 0 < one[0]["eval_accuracy"] < 1
    for step, found in one.items():
        assert two[step] == pytest.approx(found, abs=1e-3)


def test_adapters_in_half_precision_are_asked_too(flags, tmp_path):
    main(flags(tmp_path / "run", use_llm_lora=4, bf16=True, learning_rate=1e-2, eval_samples=2))
    found = looks(tmp_path / "run")
    assert found[2]["eval_logps/right"] != found[0]["eval_logps/right"]


def test_exchanged_pairs_are_stopped_and_healthy_ones_are_not(tmp_path):
    command = [sys.executable, "benchmarks/guard_runs.py", "--short", "--seeds", "0", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = json.loads(done.stdout.splitlines()[-1])["0"]
    assert runs["exchanged"]["exit_code"] == 1 and runs["healthy"]["exit_code"] == 0
