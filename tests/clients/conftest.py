"""Checkpoints as a training saves them, and the clients that are to load them, each in an environment of its own."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.make_visual_reasoning import make_visual_reasoning, parse_arguments
from internvl_chat.data.images import Tiling, load_image
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_tokenizer
from internvl_chat.model.modeling_internvl import normalize_tiles
from internvl_chat.records.rows import Source
from internvl_chat.train_mpo import main as train
from tools.checkpoints.conversion import convert_to_hf
from tools.reasoning_data_pipeline.engines.protocol import Completion

ROOT = Path(__file__).parents[2]
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """All that a training of two steps from the quickstart's base saved: {name: folder}, and the last one in `-hf`."""
    folder = tmp_path_factory.mktemp("saved")
    make_visual_reasoning(parse_arguments(f"--out {folder}/data --pairs 4 --held_out 0".split()))
    flags = f"--model_name_or_path {ROOT}/ckpt/tiny-base --meta_path {folder}/data/pairs.json --output_dir {folder}/run"
    flags += " --force_image_size 56 --max_dynamic_patch 3 --max_seq_length 512 --per_device_train_batch_size 2"
    flags += " --max_steps 2 --save_steps 1 --learning_rate 1e-2 --lr_scheduler_type constant --report_to none"
    train([*flags.split(), "--disable_tqdm", "True", "--reference_cache_dir", f"{folder}/cache"])
    convert_to_hf(folder / "run", folder / "run-hf")
    names = ("run/checkpoint-1", "run/checkpoint-2", "run", "run-hf")
    return {name: folder / name for name in names}


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A wide picture, which is cut into two tiles and a thumbnail where a checkpoint has room for three."""
    path = tmp_path_factory.mktemp("pictures") / "wide.png"
    Image.linear_gradient("L").resize((112, 56)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="session")
def tiles_of(picture):
    """Function from the side of a tile to the picture's tiles as a client gives them to a model."""

    def tiles(image_size):
        image, tiling = load_image(str(picture)), Tiling(image_size, max_num=3)
        [grid] = tiling.plan([image.size])
        return normalize_tiles(torch.from_numpy(tiling.cut(image, grid)), "imagenet")

    return tiles


@pytest.fixture(scope="session")
def question():
    return "How many?"


@pytest.fixture(scope="session")
def batch(saved, tiles_of, question):
    """The picture's tiles and the ids of the question about it, as we ask it."""
    tiles = tiles_of(56)
    rows = RowTokenizer(load_tokenizer(saved["run"]), "internvl2_5", 4)
    row = rows.tokenize(f"<image>\n{question}", ["x"], 1, Source("here", 1))
    return {"ids": torch.tensor([list(row.prompt_ids([len(tiles)]))]), "tiles": tiles}


@pytest.fixture(scope="session")
def client():
    """Function from a client's name to the folder of its environment below $CLIENTS; skips where there is none."""

    def find(name):
        folder = Path(os.environ.get("CLIENTS", "/nowhere")) / name
        if not folder.is_dir():
            pytest.skip(f"no {name} in $CLIENTS: docs/clients.md tells how to make that folder")
        return folder

    return find


@pytest.fixture(scope="session")
def answered_in_vllm(client, tmp_path_factory):
    """Function from a checkpoint and requests by temperature to (key, sample) -> completion of vLLM, by temperature."""

    def answer(checkpoint, parts):
        folder = tmp_path_factory.mktemp("in-process")
        wanted = [{"temperature": heat, "requests": [asdict(one) for one in part]} for heat, part in parts.items()]
        (folder / "requests.json").write_text(json.dumps(wanted))
        command = [str(client("vllm") / "bin" / "python"), "tests/clients/answer_in_vllm.py", str(checkpoint)]
        command += [str(folder / "requests.json"), str(folder / "out.jsonl")]
        environment = {**os.environ, **VLLM, "PYTHONPATH": str(ROOT)}
        with (folder / "log").open("w") as log:
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log).returncode
        assert code == 0, (folder / "log").read_text()[-3000:]
        found = {heat: {} for heat in parts}
        for line in (folder / "out.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert "reason" not in row, row
            temperature = row.pop("temperature")
            row |= {"tokens": tuple(row["tokens"]), "logprobs": tuple(row["logprobs"])}
            found[temperature][row["key"], row["sample"]] = Completion(**row)
        return found

    return answer
