"""Tiny checkpoints of both families, a stock model and a critic of each, and pictures to judge."""

import json
import shutil

import pytest
import torch
from PIL import Image

from internvl_chat.critic.scoring import StepCritic
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.model.conversation import get_template

FAMILIES = ("tiny-qwen2", "tiny-internlm2")


def picture(width, height, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(params=FAMILIES)
def checkpoint(request, golden_folder):
    return golden_folder / "ckpt" / request.param


@pytest.fixture
def critic(checkpoint):
    return StepCritic.load(checkpoint, device="cpu")


@pytest.fixture
def critic_of_answers(checkpoint, tmp_path):
    """The critic of a checkpoint that says that it judges answers as they stand, under its template's message."""
    folder = shutil.copytree(checkpoint, tmp_path / "critic")
    config = json.loads((folder / "config.json").read_text())
    message = get_template(config["template"]).system_message
    (folder / "config.json").write_text(
        json.dumps({**config, "critic": {"system_message": message, "layout": "answer"}})
    )
    return StepCritic.load(folder, device="cpu")


@pytest.fixture
def stock(checkpoint):
    """The model as other code runs it, and its tokenizer."""
    return load_model(checkpoint, dtype=torch.float32).eval(), load_tokenizer(checkpoint)
