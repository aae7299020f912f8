"""What a training saves, in the tools of others: transformers without this package, lmdeploy, vLLM, VLMEvalKit."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from internvl_chat.checkpoint.export import export_checkpoint
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE
from tests.tools.test_compose import composed, language_model
from tools.checkpoints.tiny import make_tiny_checkpoint
from tools.make_tiny_checkpoint import parse_arguments
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, Request, SamplingSettings

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
PARTS = pytest.mark.parametrize("name", ["run/checkpoint-1", "run", "run-hf"])


def said(output):
    """The JSON in the last line of a program, behind what the client prints."""
    return json.loads(output.splitlines()[-1])


def test_every_saved_checkpoint_computes_the_same_without_this_package(saved, batch, logits_elsewhere):
    with torch.no_grad():
        ours = {name: load_model(folder)(batch["tiles"], batch["ids"]).logits for name, folder in saved.items()}
    theirs = dict(zip(saved, logits_elsewhere(batch, saved.values()), strict=True))
    for name in saved:
        assert torch.allclose(theirs[name], ours[name], rtol=0, atol=1e-5), name
    assert torch.equal(ours["run"], ours["run/checkpoint-2"]) and torch.equal(ours["run"], ours["run-hf"])
    assert not torch.allclose(ours["run"], ours["run/checkpoint-1"], rtol=0, atol=1e-2)


@PARTS
def test_lmdeploy_takes_all_weights_and_asks_as_we_do(client, run_elsewhere, saved, picture, question, batch, name):
    python = client("lmdeploy") / "bin" / "python"
    found = said(run_elsewhere("load_in_lmdeploy.py", saved[name], question, picture, python=python))
    assert [found["architecture"]] == json.loads((saved[name] / "config.json").read_text())["architectures"]
    assert found["turbomind"] and found["task"] == "vlm" and found["missing"] == []
    assert found["prompt_ids"] == batch["ids"][0].tolist()


def test_the_engine_of_the_pipelines_asks_lmdeploy_as_it_should(client):
    """Its tests run in lmdeploy's environment, on all of lmdeploy but the backend that needs a GPU."""
    command = [str(client("lmdeploy") / "bin" / "python"), "-m", "pytest", "-m", "not gpu", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "tests/tools/reasoning_data_pipeline/engines/test_lmdeploy_engine.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@PARTS
def test_vllm_takes_all_weights_and_asks_as_we_do(
    client, run_elsewhere, saved, picture, question, batch, tmp_path, name
):
    python = client("vllm") / "bin" / "python"
    with torch.no_grad():
        features = load_model(saved[name]).extract_feature(batch["tiles"])
    torch.save({"tiles": batch["tiles"], "features": features}, tmp_path / "batch.pt")
    words = (saved[name], question, picture, tmp_path / "batch.pt")
    found = said(run_elsewhere("load_in_vllm.py", *words, python=python))
    assert [found["architecture"]] == json.loads((saved[name] / "config.json").read_text())["architectures"]
    assert found["unused"] == found["missing"] == []
    assert found["difference"] < 1e-5 < features.std()
    assert found["prompt_ids"] == batch["ids"][0].tolist()


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_composed_checkpoint_answers_in_vllm_as_here(answered_in_vllm, golden_folder, picture, tmp_path, family):
    # heads of 32 and 1,024 positions: vLLM's CPU kernels and the engine's session ask for as much
    language_model(golden_folder, tmp_path / "llm", family, max_position_embeddings=1024, hidden_size=128)
    checkpoint = composed(tmp_path / "llm", tmp_path / "out")
    asked = [
        Request("seen", "<image>\nHow many?", {0: 1}, (str(picture),), max_tiles=1),
        Request("told", "How many?", {0: 1}),
    ]
    theirs = answered_in_vllm(checkpoint, {0.0: asked})[0.0]
    engine = open_engine("transformers", EngineOptions(str(checkpoint), SamplingSettings(0.0, max_new_tokens=96)))
    ours = {(answer.key, answer.sample): answer for answer in engine.generate(asked)}
    engine.close()
    assert len(ours) == 2 and all(answer.tokens for answer in ours.values())
    assert {key: answer.tokens for key, answer in theirs.items()} == {key: one.tokens for key, one in ours.items()}


def test_vlmevalkit_asks_in_the_words_of_the_mpo_models_and_gets_our_answer(
    client, run_elsewhere, picture, tiles_of, tmp_path
):
    """Its tiles have 448 pixels whatever the checkpoint says, so this one is a model of that size."""
    kit, python = client("VLMEvalKit"), client("vlmevalkit") / "bin" / "python"
    made, saved = tmp_path / "made", tmp_path / "saved"
    make_tiny_checkpoint(parse_arguments(f"--out {made} --image_size 448".split()))
    export_checkpoint(load_model(made), made, saved)
    found = said(run_elsewhere("load_in_vlmevalkit.py", kit, saved, picture, python=python))
    assert found["prompt"].startswith("Your task is to answer the question below. Give step by step reasoning")
    assert "Final answer: .." in found["prompt"] and found["prompt"].endswith("How many circles are there?")
    model, tiles = load_model(saved, dtype=torch.bfloat16), tiles_of(448).bfloat16()
    settings = {"max_new_tokens": 12, "do_sample": False}
    assert found["answer"] == model.chat(load_tokenizer(saved), tiles, found["prompt"], settings) != ""


def test_a_saved_critic_chooses_in_vlmevalkit(client, run_elsewhere, picture, tiles_of, tmp_path):
    """The critic's numbers are ours, so is the order of the three answers, and the first of them is the answer."""
    kit, python = client("VLMEvalKit"), client("vlmevalkit") / "bin" / "python"
    made, policy, critic = tmp_path / "made", tmp_path / "policy", tmp_path / "critic"
    make_tiny_checkpoint(parse_arguments(f"--out {made} --image_size 448".split()))
    model = load_model(made)
    export_checkpoint(model, made, policy)
    model.config.critic = {"system_message": CRITIC_SYSTEM_MESSAGE}
    export_checkpoint(model, made, critic)
    found = said(run_elsewhere("choose_in_vlmevalkit.py", kit, policy, picture, critic, python=python))
    assert found["keywords"] == ["num_patches_list", "pixel_values", "tokenizer"] and len(found["asked"]) == 3
    ours, tiles = load_model(critic, dtype=torch.bfloat16), tiles_of(448).bfloat16()
    sorted_here = ours.select_best_response(load_tokenizer(critic), found["question"], found["asked"], tiles)
    assert found["best_first"] == sorted_here and found["answer"] == sorted_here[0]
