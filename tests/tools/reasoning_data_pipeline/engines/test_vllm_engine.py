"""The vLLM engine on a stand-in for vLLM: what reaches it, and what comes back. `make clients` has the real one."""

import numpy as np
import pytest
from PIL import Image

from internvl_chat.model import load_tokenizer
from tests.tools import stand_ins
from tools.checkpoints.conversion import convert_to_hf
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineError,
    EngineOptions,
    Failure,
    Request,
    SamplingSettings,
)
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine


@pytest.fixture
def checkpoint(golden_folder):
    return golden_folder / "ckpt" / "tiny-qwen2"


@pytest.fixture
def engine(checkpoint, monkeypatch):
    """Function from options to an engine on the stand-in."""
    stand_ins.install(monkeypatch, "vllm")
    opened = []

    def built(folder=checkpoint, sampling=None, **options):
        sampling = SamplingSettings(**{"max_new_tokens": 64, **(sampling or {})})
        opened.append(open_engine("vllm", EngineOptions(str(folder), sampling, **{"session_len": 600, **options})))
        return opened[-1]

    yield built
    for each in opened:
        each.close()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 112, 3), np.uint8)).save(path)
    return str(path)


def texts(results):
    return {(result.key, result.sample): result.text for result in results}


def scripted(seed):
    return ScriptedEngine().text(Request("", "Final answer: ..", {}), seed)


def test_all_samples_of_a_prompt_are_one_request(engine):
    asking = engine()
    found = texts(asking.generate([Request("a", "How many?", {0: 7, 1: 8, 4: 9}, base_seed=100)]))
    assert found == {("a", 0): scripted(100), ("a", 1): scripted(101), ("a", 4): scripted(104)}
    assert sorted((params.seed, params.n) for _, params in asking.llm.asked) == [(100, 2), (104, 1)]


def test_settings_and_ids_reach_vllm(engine, picture):
    asking = engine(sampling={"temperature": 0.7, "top_k": 20, "top_p": 0.9, "max_new_tokens": 8})
    request = Request("a", "Look: <image>\nWhat?", {0: 5}, (picture,), max_tiles=3, prefix="I see ")
    [result] = asking.generate([request])
    [(prompt, params)] = asking.llm.asked
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.7, 20, 0.9, 8)
    assert params.stop_token_ids == sorted(asking.stop_ids) and params.logprobs is None
    said = load_tokenizer(asking.options.checkpoint).decode(prompt["prompt_token_ids"])
    assert said.endswith("<|im_start|>user\nLook: <image>\nWhat?<|im_end|>\n<|im_start|>assistant\nI see ")
    assert prompt["mm_processor_kwargs"] == {"max_dynamic_patch": 3}
    assert [image.size for image in prompt["multi_modal_data"]["image"]] == [(112, 56)]
    assert result.finish == "length" and len(result.tokens) == 8 and result.logprobs is None


def test_how_vllm_is_started(engine):
    options = engine(tp=2, session_len=777).llm.options
    assert options["tensor_parallel_size"] == 2 and options["max_model_len"] == 777
    assert options["enable_prefix_caching"] and options["limit_mm_per_prompt"]["image"] >= 12
    assert options["logprobs_mode"] == "raw_logprobs" and options["generation_config"] == "vllm"
    assert options["trust_remote_code"]


def test_the_hf_layout_has_its_own_placeholder_and_limit_and_runs_no_remote_code(engine, checkpoint, tmp_path):
    convert_to_hf(checkpoint, tmp_path / "hf")
    asking = engine(tmp_path / "hf")
    assert asking._image_ids == [load_tokenizer(checkpoint).convert_tokens_to_ids("<IMG_CONTEXT>")]
    assert asking.layout.tile_limit == "max_patches" and not asking.llm.options["trust_remote_code"]


def test_greedy_answers_are_asked_for_once(engine):
    asking = engine(sampling={"temperature": 0})
    results = list(asking.generate([Request("a", "How many?", {0: 7, 1: 8})]))
    assert [result.sample for result in results] == [0, 1] and len({result.text for result in results}) == 1
    [(_, params)] = asking.llm.asked
    assert (params.n, params.temperature, params.seed, params.top_k) == (1, 0, None, 0)


def test_tokens_and_log_probs_on_request(engine, checkpoint):
    [result] = engine(logprobs=True).generate([Request("a", "How many?", {0: 7})])
    tokenizer = load_tokenizer(checkpoint)
    assert result.tokens == (*tokenizer.encode(result.text), tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert result.logprobs == tuple(-1 / (1 + token) for token in result.tokens)


def test_single_requests_may_fail(engine, tmp_path, picture):
    asking = engine()
    requests = [
        Request("broken", "<image>\nWhat?", {0: 1, 1: 2}, (str(tmp_path / "none.png"),)),
        Request("long", "word " * 900, {0: 1}),
        Request("refused", "refuse me", {0: 1}),
        Request("good", "<image>\nWhat?", {0: 1, 1: 2}, (picture,)),
    ]
    results = list(asking.generate(requests))
    failures = {result.key: result.reason for result in results if isinstance(result, Failure)}
    assert set(failures) == {"broken", "long", "refused"} and failures["refused"] == "vLLM: the prompt is refused"
    assert "--session-len 600" in failures["long"]
    assert sum(isinstance(result, Completion) for result in results) == 2


def test_a_prompt_that_vllm_reads_otherwise_is_no_answer(engine):
    asking = engine()
    asking.llm.more_tokens = 1
    [result] = asking.generate([Request("a", "How many?", {0: 7})])
    assert isinstance(result, Failure) and "vLLM reads this prompt otherwise" in result.reason


def test_an_engine_that_breaks_down_names_its_requests(engine, monkeypatch):
    asking = engine()

    def broken():
        raise RuntimeError("EngineCore died")

    monkeypatch.setattr(asking.llm, "step", broken)
    with pytest.raises(EngineError, match="vLLM failed on row-3: EngineCore died"):
        list(asking.generate([Request("row-3", "How many?", {0: 7})]))


def test_it_stops_with_the_engine(engine):
    asking = engine()
    assert asking.llm in stand_ins.FakeLLM.instances
    asking.close()
    assert asking.llm not in stand_ins.FakeLLM.instances
    stand_ins.FakeLLM.instances.append(asking.llm)  # the fixture closes it again
