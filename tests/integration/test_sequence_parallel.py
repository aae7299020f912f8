"""Two ranks that share every row train as one process does, without an engine and under ZeRO-3, in float32."""

import json

import pytest

from internvl_chat.train_mpo import main
from tests.integration.ranks import train
from tests.integration.test_deepspeed import largest_difference
from tests.tools.test_convert import build

pytestmark = pytest.mark.integration

SETTINGS = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def alone(tiny_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    main(tiny_flags(folder, **SETTINGS))
    return folder


@pytest.mark.parametrize("engine", [{}, {"deepspeed": "zero_stage3_config.json"}], ids=["ddp", "zero3"])
def test_two_ranks_share_each_row(engine, alone, tiny_flags, losses_of, tmp_path):
    flags = tiny_flags(tmp_path / "run", sequence_parallel_size=2, **SETTINGS, **engine)
    train(flags, world=2, log=tmp_path / "log")
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(alone), abs=1e-5)
    assert largest_difference(alone, tmp_path / "run") <= 1e-6
    books = [json.loads((folder / "ledger.json").read_text()) for folder in (alone, tmp_path / "run")]
    assert books[0] == books[1] and books[1]["adds_up"]


def test_two_ranks_share_rows_of_several_questions_about_an_image(tiny_flags, losses_of, golden_folder, tmp_path):
    rows = [
        {"image": "square_small.png", "question": f"Part {n}?", "chosen": f"{n}.", "rejected": "No"} for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"root": str(golden_folder / "data" / "images"), "annotation": str(tmp_path / "rows.jsonl")}
    (tmp_path / "meta.json").write_text(json.dumps({"one": entry}))
    settings = {"meta_path": tmp_path / "meta.json", "max_steps": 2, "per_device_train_batch_size": 4}
    main(tiny_flags(tmp_path / "alone", **settings))
    train(tiny_flags(tmp_path / "run", sequence_parallel_size=2, **settings), world=2, log=tmp_path / "log")
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(tmp_path / "alone"), abs=1e-5)
    assert largest_difference(tmp_path / "alone", tmp_path / "run") <= 1e-6


@pytest.fixture(params=["internlm2", "gpt_oss"])
def other_model(request, golden_folder, tmp_path):
    """InternLM2 of the tiny checkpoints, and GPT-OSS with its windows and sinks."""
    if request.param == "internlm2":
        return golden_folder / "ckpt" / "tiny-internlm2"
    return build(tmp_path / "source", golden_folder / "ckpt" / "tiny-qwen2", request.param)


def test_with_few_keys_a_cached_reference_checkpointing_and_evaluation(
    other_model, tiny_flags, golden_folder, losses_of, tmp_path
):
    meta = golden_folder / "data" / "meta.json"
    settings = {**SETTINGS, "model_name_or_path": other_model, "grad_checkpoint": True}
    settings |= {"eval_meta_path": meta, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 2}
    settings |= {"reference": "cache", "reference_cache_dir": tmp_path / "cache"}
    main(tiny_flags(tmp_path / "alone", **{**settings, "reference": "model"}))
    train(tiny_flags(tmp_path / "run", sequence_parallel_size=2, **settings), world=2, log=tmp_path / "log")
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(tmp_path / "alone"), abs=1e-5)
    assert largest_difference(tmp_path / "alone", tmp_path / "run") <= 1e-6
    logs = [json.loads((tmp_path / run / "trainer_state.json").read_text())["log_history"] for run in ("alone", "run")]
    [before], [after] = ([entry for entry in log if "eval_loss" in entry] for log in logs)
    for name in ("eval_loss", "eval_rewards/margins", "eval_nll_loss"):
        assert after[name] == pytest.approx(before[name], abs=1e-5)
