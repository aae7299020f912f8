"""A scratch folder for the sampling pipelines, and ways to start them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.make_visual_reasoning import make_visual_reasoning
from data.make_visual_reasoning import parse_arguments as data_arguments
from internvl_chat.train_mpo import main as train
from tools import evaluate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A real run of the quickstart's stages at their smallest, in its folders: data, before, training (mpo), after."""
    folder = tmp_path_factory.mktemp("quickstart")
    make_visual_reasoning(data_arguments(f"--out {folder}/data --pairs 8 --held_out 8".split()))
    base, held_out = str(ROOT / "ckpt" / "tiny-base"), sorted(map(str, folder.glob("data/held_out_*_prompts.*")))
    flags = f"--model_name_or_path {base} --meta_path {folder}/data/pairs.json --output_dir {folder}/mpo"
    flags += " --force_image_size 56 --max_dynamic_patch 3 --max_seq_length 512 --max_steps 3 --logging_steps 1"
    flags += " --report_to tensorboard --save_strategy no --per_device_train_batch_size 4 --disable_tqdm True"
    train(flags.split())
    asked = ["--checkpoint", str(folder / "mpo"), "--against", base, "--reasoned", *held_out, "--max-num", "3"]
    evaluate.main([*asked, "--max-new-tokens", "64", "--engine", "transformers", "--out", str(folder / "after.json")])
    return folder / "mpo"


@pytest.fixture
def work(tmp_path, golden_folder, monkeypatch):
    """A working directory with the golden images in `images`, outside any launcher."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "TP", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(golden_folder / "data" / "images", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write_rows(work):
    """Function from rows to the path of a JSONL file with them; text stands for a line as it is."""

    def written(rows, name="prompts.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (work / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return work / name

    return written


@pytest.fixture
def read_rows():
    """Function from a path to the rows of a JSONL file."""

    def read(path):
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]

    return read


@pytest.fixture
def run_two_ranks(work, golden_folder):
    """Function that runs a documented command on two CPU processes with the tiny model; returns its output file."""

    def run(script, *more):
        command = [sys.executable, "-u", f"tools/reasoning_data_pipeline/{script}.py"]
        command += ["--checkpoint", str(golden_folder / "ckpt" / "tiny-qwen2"), "--out-dir", str(work / "out")]
        command += ["--prompt-path", str(work / "prompts.jsonl"), "--image-root", str(work / "images")]
        command += ["--batch-size", "1", "--num-workers", "8", "--num-return-sequences", "2", "--top-k", "50"]
        command += ["--temperature", "1.0", "--dynamic", "--max-num", "6", "--sample-max-num", "20000", "--tp", "1"]
        command += ["--max-new-tokens", "8", *more]
        common = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2"}
        places = [{**common, "RANK": str(rank), "TORCHELASTIC_RUN_ID": "test"} for rank in range(2)]
        ranks = [subprocess.Popen(command, cwd=ROOT, env=place, stderr=subprocess.PIPE, text=True) for place in places]
        errors = [rank.communicate()[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], errors
        [output] = (work / "out").rglob("prompts.jsonl")
        return output

    return run
