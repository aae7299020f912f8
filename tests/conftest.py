"""Fixtures that several test files share: golden figures and the golden checkpoints."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from internvl_chat.model import load_config, load_model, load_tokenizer
from tests.browser import browser_page, look_at  # noqa: F401

GOLDEN = Path(__file__).parent / "golden"
CLIENTS = Path(__file__).parent / "clients"


STAND_IN_SERVER = """\
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

flags = dict(zip(sys.argv, sys.argv[1:]))
HTTPServer.allow_reuse_port = True  # the nodes of a Slurm in one machine are one host
HTTPServer((flags["--host"], int(flags["--port"])), Page).serve_forever()
"""


def pytest_configure(config):
    torch.set_num_threads(1)
    if "gpu" not in (config.option.markexpr or ""):
        # Golden figures and equal bits are those of a CPU; what needs a GPU is marked and asked for by `-m gpu`.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def golden_folder():
    return GOLDEN


@pytest.fixture(scope="session")
def golden():
    """Figures of tiny-qwen2, see tests/golden/README.md."""
    spec = importlib.util.spec_from_file_location("load_golden", GOLDEN / "load_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Golden("tiny-qwen2")


@pytest.fixture
def golden_batch(golden):
    """Function from a batch name to the collated tensors."""

    def collated(name):
        batch = {key: torch.from_numpy(np.asarray(value)) for key, value in golden.batch(name).items()}
        tokens = {key: value.long() for key, value in batch.items() if key.endswith(("input_ids", "labels", "flags"))}
        return {**batch, **tokens, "row_ids": golden.loss["batches"][name]["ids"], "skipped": []}

    return collated


@pytest.fixture(scope="session")
def tokenizer(golden):
    return load_tokenizer(golden.ckpt)


@pytest.fixture
def policy(golden):
    """Without drop path, as the golden figures were computed."""
    config = load_config(golden.ckpt_policy)
    config.vision_config.drop_path_rate = 0.0
    return load_model(golden.ckpt_policy, config=config)


@pytest.fixture
def reference(golden):
    return load_model(golden.ckpt)


@pytest.fixture(scope="session")
def original_command():
    """The argument line of the original 2.5-8B launcher, word for word but for the folder of its output."""
    return (Path(__file__).parent / "original_command.txt").read_text()


@pytest.fixture
def run_elsewhere(tmp_path):
    """Function that runs a program of tests/clients, by any interpreter, away from this package; returns its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(name, *words, python=sys.executable, folder=tmp_path):
        command = [str(python), str(CLIENTS / name), *map(str, words)]
        options = {"capture_output": True, "text": True, "timeout": 900}
        result = subprocess.run(command, cwd=folder, env=environment, **options)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def logits_elsewhere(run_elsewhere, tmp_path):
    """Function from a batch (`ids`, `tiles`) and checkpoints to the logits by transformers without this package."""

    def compute(batch, folders):
        torch.save(batch, tmp_path / "batch.pt")
        run_elsewhere("load_in_transformers.py", tmp_path / "batch.pt", tmp_path / "logits.pt", *folders)
        return torch.load(tmp_path / "logits.pt")

    return compute


@pytest.fixture
def stand_in_vllm(tmp_path):
    """A folder for PYTHONPATH: `python -m vllm.entrypoints.openai.api_server` is then a page that says yes."""
    package = tmp_path / "stand_in" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN_SERVER)
    return tmp_path / "stand_in"
