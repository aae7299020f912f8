"""vLLM's answers on a CPU: a real server and the in-process engine beside ours, on 200 prompts of the quickstart.

Greedy answers are ours but for ties, sampled ones are right as often, tile limits and prefixes are what training has.
"""

import json
import math
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from data.make_visual_reasoning import make_visual_reasoning, parse_arguments
from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.model import load_model
from tests.clients.conftest import VLLM
from tools.checkpoints.conversion import convert_to_hf
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineOptions,
    Request,
    SamplingSettings,
    ServerOptions,
)
from tools.reasoning_data_pipeline.prompts.wording import ask

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
BASE = ROOT / "ckpt" / "tiny-base"
PROMPTS, WITHOUT_PICTURE, SAMPLES = 200, 40, 4
TIE = 1e-3  # between the logits of the two most likely tokens


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Questions of the quickstart with their pictures, and the last of them without."""
    folder = tmp_path_factory.mktemp("data")
    make_visual_reasoning(parse_arguments(f"--out {folder} --pairs 0 --held_out {PROMPTS} --seed 77".split()))
    lines = (folder / "held_out_en_prompts.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{**row, "image": str(folder / row["image"])} for row in found]


@pytest.fixture(scope="module")
def requests(rows):
    """The prompts, each to be answered once or SAMPLES times."""

    def made(samples):
        seeds = {sample: sample for sample in range(samples)}
        for number, row in enumerate(rows):
            question, images = row["question"], (row["image"],)
            if number >= PROMPTS - WITHOUT_PICTURE:
                question, images = question.removeprefix("<image>\n"), ()
            text = ask(question, len(images), version="en", style="plain", where=None)
            yield Request(str(number), text, seeds, images, max_tiles=1, base_seed=1000 * number)

    return lambda samples: list(made(samples))


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    """Wide pictures at two tile limits, and prefixes whose continuation the base has learned."""
    from PIL import Image

    path = tmp_path_factory.mktemp("wide") / "wide.png"
    Image.linear_gradient("L").resize((168, 112)).convert("RGB").save(path)
    wide = [
        Request(f"limit {limit}", "<image>\nHow many circles are there?", {0: 1}, (str(path),), max_tiles=limit)
        for limit in (1, 6)
    ]
    begun = "Count the circles: "
    return [*wide, Request("prefix", "<image>\nHow many circles are there?", {0: 1}, (str(path),), prefix=begun)]


@pytest.fixture(scope="module", params=["published", "hf"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "base"
    export_checkpoint(load_model(BASE), BASE, folder)
    if request.param == "published":
        return folder
    convert_to_hf(folder, folder.with_name("base-hf"))
    return folder.with_name("base-hf")


def answers(name, checkpoint, requests, temperature, **options):
    """(key, sample) -> completion; none may fail."""
    sampling = SamplingSettings(temperature, max_new_tokens=96)
    engine = open_engine(name, EngineOptions(str(checkpoint), sampling, session_len=1024, logprobs=True, **options))
    try:
        results = list(engine.generate(requests))
    finally:
        engine.close()
    assert all(isinstance(result, Completion) for result in results), results
    return {(result.key, result.sample): result for result in results}


@pytest.fixture(scope="module")
def ours(checkpoint, requests, extra):
    """The embedded engine's answers by temperature."""
    parts = {0.0: [*requests(1), *extra], 1.0: requests(SAMPLES)}
    return {heat: answers("transformers", checkpoint, part, heat, max_rows=64) for heat, part in parts.items()}


@pytest.fixture(scope="module")
def by_server(checkpoint, requests, extra, client, tmp_path_factory):
    """Those of a server that shell/serve.sh starts."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"PYTHON": str(client("vllm") / "bin" / "python"), "PORT": str(port), "SESSION_LEN": "1024", "WAIT": "1200"}
    environment = {**os.environ, **VLLM, **place, "URLS": str(folder / "urls.txt"), "LAUNCHER": "local"}
    command = ["bash", "shell/serve.sh", str(checkpoint), "--dtype", "float32"]
    with (folder / "log").open("w") as log:
        serving = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while not (folder / "urls.txt").exists():
                assert serving.poll() is None, (folder / "log").read_text()[-3000:]
                time.sleep(1)
            server = ServerOptions(urls=tuple((folder / "urls.txt").read_text().split()))
            parts = {0.0: [*requests(1), *extra], 1.0: requests(SAMPLES)}
            yield {heat: answers("server", checkpoint, part, heat, server=server) for heat, part in parts.items()}
        finally:
            os.killpg(serving.pid, signal.SIGTERM)
            serving.wait()


@pytest.fixture(scope="module")
def in_process(checkpoint, requests, extra, answered_in_vllm):
    """Those of the engine in vLLM's own environment."""
    return answered_in_vllm(checkpoint, {0.0: [*requests(1), *extra], 1.0: requests(SAMPLES)})


@pytest.fixture(params=["server", "in process"])
def theirs(request):
    return request.getfixturevalue({"server": "by_server", "in process": "in_process"}[request.param])


@pytest.fixture(scope="module")
def check_ties(checkpoint):
    """Function from a request and two greedy answers to whether they part at a tie of the logits."""
    engine = open_engine("transformers", EngineOptions(str(checkpoint), session_len=1024))
    yield lambda request, one, other: gap_where_they_part(engine, request, one.tokens, other.tokens) < TIE
    engine.close()


def gap_where_they_part(engine, request, one, other):
    """Difference of the logits of the two tokens at the first place where the answers differ."""
    place = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    prompt = engine.reader.read(request)
    ids = torch.tensor([[*prompt.ids, *one[:place]]])
    tiles = engine.reader.cut(prompt)
    with torch.inference_mode():
        features = None if tiles is None else engine._features(tiles)
        embeds = engine.model.insert_features(ids, features)
        logits = engine.model.language_model(inputs_embeds=embeds).logits[0, -1]
    return abs(float(logits[one[place]] - logits[other[place]]))


def test_greedy_answers_are_ours_but_for_ties(theirs, ours, requests, check_ties):
    asked = {request.key: request for request in requests(1)}
    differ = [key for key in asked if theirs[0.0][key, 0].tokens != ours[0.0][key, 0].tokens]
    assert len(differ) <= 0.02 * PROMPTS, differ
    for key in differ:
        assert check_ties(asked[key], ours[0.0][key, 0], theirs[0.0][key, 0]), key
    print(f"{PROMPTS - len(differ)} of {PROMPTS} greedy answers are the same, {len(differ)} part at a tie")


def test_log_probs_are_ours(theirs, ours):
    for key, answer in theirs[0.0].items():
        if answer.tokens == ours[0.0][key].tokens:
            assert answer.logprobs == pytest.approx(ours[0.0][key].logprobs, abs=2e-3), key


def test_sampled_answers_are_right_as_often(theirs, ours, rows):
    gold = {str(number): row["answer"] for number, row in enumerate(rows)}
    right, count = [], PROMPTS * SAMPLES
    for found in (ours[1.0], theirs[1.0]):
        assert len(found) == count
        hits = (answer.text.rstrip().endswith(f"Final answer: {gold[key]}") for (key, _), answer in found.items())
        right.append(sum(hits))
    share = sum(right) / (2 * count)
    z = (right[0] - right[1]) / math.sqrt(2 * count * share * (1 - share))
    print(f"ours {right[0]} of {count} right, theirs {right[1]}, z = {z:.2f}")
    assert 0.05 < share < 0.95 and abs(z) < 3.3  # p 0.001


def test_samples_of_a_prompt_differ(theirs, checkpoint):
    several = {key for key, _ in theirs[1.0]}
    kinds = [len({theirs[1.0][key, sample].tokens for sample in range(SAMPLES)}) for key in several]
    assert sum(kinds) > 1.5 * len(kinds)


def test_tile_limits_and_prefixes_are_training_s(theirs, ours):
    for key in ("limit 1", "limit 6", "prefix"):
        assert theirs[0.0][key, 0].tokens == ours[0.0][key, 0].tokens, key
