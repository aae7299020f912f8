"""The files that travel with a checkpoint make it load, answer and judge where this package is not installed."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from internvl_chat.checkpoint.export import remote_code_files

RESPONSES = ["one.\n\nFinal answer: 1", "Final answer: 2", "two, three.\n\nso 3.\n\nFinal answer: 3"]
GREEDY = {"max_new_tokens": 8, "do_sample": False}
SCRIPT = """
import json, sys
sys.modules["internvl_chat"] = None  # an import of the package, which may be installed, now fails
import torch
from transformers import AutoModel, AutoTokenizer
torch.set_num_threads(1)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True, use_fast=False)
tiles = torch.full((2, 3, 56, 56), 200, dtype=torch.uint8)
print("ANSWER", ascii(model.chat(tokenizer, tiles, "How many?", dict(max_new_tokens=8, do_sample=False))))
asked = dict(tokenizer=tokenizer, question="<image>\\nHow many?", response_list=json.loads(sys.argv[2]))
best = model.select_best_response(**asked, pixel_values=tiles, num_patches_list=[2], return_scores=True)
print("BEST", json.dumps(best))
"""


def test_the_files_import_each_other_only_as_siblings():
    names = {path.stem for path in remote_code_files()}
    assert {"modeling_internvl_chat", "configuration_internvl_chat", "tokenization_internlm2"} <= names
    assert not names & {"loading", "checkpoint_files", "hf_layout", "__init__"}
    for path in remote_code_files():
        source = path.read_text(encoding="utf-8")
        assert set(re.findall(r"^from \.(\w+) import", source, re.MULTILINE)) <= names, path
        assert not re.search(r"^\s*(from \.\.|from internvl_chat|import internvl_chat)", source, re.MULTILINE), path


@pytest.mark.integration
def test_a_checkpoint_with_its_files_answers_the_same_elsewhere(family, tmp_path):
    folder = shutil.copytree(family.folder, tmp_path / "ckpt")
    for path in remote_code_files():
        shutil.copy(path, folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(RESPONSES)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    tiles = torch.full((2, 3, 56, 56), 200, dtype=torch.uint8)
    model = family.load()
    answer = model.chat(family.tokenizer, tiles, "How many?", GREEDY)
    assert f"ANSWER {ascii(answer)}" in run.stdout
    best = json.loads(run.stdout.splitlines()[-1].removeprefix("BEST "))
    ours = model.select_best_response(family.tokenizer, "How many?", RESPONSES, tiles, return_scores=True)
    assert [response for response, _ in best] == [response for response, _ in ours]
    assert [score for _, score in best] == pytest.approx([score for _, score in ours], abs=1e-5)
