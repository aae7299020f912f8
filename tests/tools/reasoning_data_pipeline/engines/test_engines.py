"""The engine protocol, the scripted engine, and the embedded engine on the golden checkpoints."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from internvl_chat.data.images import Tiling
from internvl_chat.model import load_model, load_tokenizer
from internvl_chat.model.conversation import TextEncoder
from tests.tools.test_convert import build
from tools.reasoning_data_pipeline.engines import opening as engines
from tools.reasoning_data_pipeline.engines.decoding import LIKELIEST, candidate_probabilities, draw_tokens, prefill
from tools.reasoning_data_pipeline.engines.inputs import PromptEncoder
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
from tools.reasoning_data_pipeline.engines.transformers_engine import TransformersEngine


def texts(engine, requests):
    """(key, sample) -> completion; every one exactly once."""
    results = list(engine.generate(requests))
    found = {(result.key, result.sample): result for result in results}
    assert len(found) == len(results)
    return found


# -- protocol ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="sampling needs"):
        SamplingSettings(**settings)


def test_unknown_and_missing_engines_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown engine 'ollama'"):
        open_engine("ollama", EngineOptions())
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"requirements-gpu\.txt"):
        open_engine("lmdeploy", EngineOptions())
    with pytest.raises(ValueError, match=r"requirements-vllm\.txt"):
        open_engine("vllm", EngineOptions())
    assert engines.choose_engine() == "transformers"


@pytest.mark.parametrize(
    ("installed", "gpu", "cpu_wheel", "layout", "name"),
    [
        ({"lmdeploy", "vllm"}, True, False, "", "lmdeploy"),
        ({"lmdeploy", "vllm"}, True, False, "hf", "vllm"),
        ({"lmdeploy"}, True, False, "hf", "transformers"),
        ({"vllm"}, True, False, "", "vllm"),
        ({"lmdeploy", "vllm"}, False, True, "", "vllm"),
        ({"lmdeploy", "vllm"}, False, False, "", "transformers"),
        (set(), True, False, "", "transformers"),
    ],
)
def test_auto_is_what_is_installed_and_fits(monkeypatch, tmp_path, caplog, installed, gpu, cpu_wheel, layout, name):
    (tmp_path / "config.json").write_text('{"model_type": "%s"}' % ("internvl" if layout else "internvl_chat"))
    monkeypatch.setattr(engines, "is_installed", installed.__contains__)
    monkeypatch.setattr(engines, "has_cpu_kernels", lambda: cpu_wheel)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with caplog.at_level("INFO"):
        assert engines.choose_engine(str(tmp_path)) == name
    assert f"--engine auto is {name}: " in caplog.text


def test_scripted_engine_answers_in_the_form_that_is_asked_for():
    engine = ScriptedEngine()
    request = Request("a", 'use "Final answer: .."', {0: 4, 7: 5})
    assert texts(engine, [request]) == {
        ("a", 0): Completion("a", 0, "Look at part 1.\n\nStep 0: put it together.\n\nFinal answer: A"),
        ("a", 7): Completion("a", 7, "Look at part 1.\n\nStep 0: put it together.\n\nFinal answer: B"),
    }
    assert engine.text(Request("a", '请使用"答案: ..."', {}), 2).endswith("\n\n答案: 3")
    assert engine.text(Request("a", "put it in \\boxed{}", {}), 3).endswith("Answer: \\boxed{4}")
    assert engine.text(Request("a", "<think> \\boxed{}", {}), 3).startswith("<think>Look")
    assert engine.text(Request("a", "", {}, prefix="So. Final answer: 4"), 3) == ""


# -- drawing of tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, 7])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p):
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(None, logits.clone()).softmax(-1)
    probabilities, ids = candidate_probabilities(logits, SamplingSettings(temperature, top_k, top_p))
    found = torch.zeros(5, 40, dtype=torch.float64).scatter(1, ids, probabilities)
    assert torch.allclose(found, expected.double(), atol=1e-6)


def test_drawing_follows_the_probabilities():
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    noise = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    drawn = draw_tokens(logits.expand(2000, 4), noise, SamplingSettings(top_k=3))
    shares = torch.bincount(drawn, minlength=4) / 2000
    expected = torch.tensor([0.0, 2.0, 1.0]).softmax(-1)
    assert torch.allclose(shares[:3], expected, atol=1e-3)
    assert shares[3] == 0


def test_extreme_noise_stays_among_the_candidates():
    logits = torch.tensor([[0.0, 5.0, 1.0]]).repeat(2, 1)
    settings = SamplingSettings(top_p=0.5)
    assert draw_tokens(logits, torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64), settings).tolist() == [1, 1]
    assert draw_tokens(logits, torch.tensor([0.9, 0.1]).double(), SamplingSettings(temperature=0)).tolist() == [1, 1]


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_whole_vocabulary_is_drawn_from_as_if_it_were_sorted(spread):
    """Flat logits send most rows behind the likeliest tokens, steep ones hardly any."""
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(200, 1000, generator=generator) * spread, torch.rand(200, generator=generator).double()
    drawn, expected = (draw_tokens(logits, noise, SamplingSettings(0.7, top_k=kept)) for kept in (0, 1000))
    assert torch.equal(drawn, expected)
    top = logits.topk(LIKELIEST).indices
    behind = (top != drawn[:, None]).all(-1).float().mean()
    assert (behind > 0.5) if spread < 1 else (0 < behind < 0.2)


def test_logits_of_a_whole_vocabulary_that_are_not_finite_give_no_token():
    logits = torch.zeros(3, 1000)
    logits[1, 7], logits[2, 7] = math.nan, math.inf
    drawn = draw_tokens(logits, torch.full((3,), 0.1).double(), SamplingSettings(top_k=0))
    assert drawn[0] >= 0 and drawn[1:].tolist() == [-1, -1]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_no_token(temperature, value):
    logits = torch.tensor([[0.0, 5.0, 1.0], [0.0, value, 1.0], [-math.inf, -math.inf, 0.0]])
    drawn = draw_tokens(logits, torch.full((3,), 0.1).double(), SamplingSettings(temperature))
    assert drawn.tolist() == [1, -1, 2]


# -- the embedded engine -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny-qwen2", "tiny-internlm2", "gpt_oss"])
def parts(request, golden_folder, tmp_path_factory):
    """Model, tokenizer and encoder of a golden checkpoint, and of GPT-OSS with its windows, sinks and channel."""
    folder = golden_folder / "ckpt" / request.param
    if request.param == "gpt_oss":
        folder = build(tmp_path_factory.mktemp("gpt_oss"), golden_folder / "ckpt" / "tiny-qwen2", request.param)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    return model, tokenizer, PromptEncoder(tokenizer, model.config)


@pytest.fixture
def engine(parts):
    """Function from options to an engine."""
    opened = []

    def built(sampling=None, **options):
        sampling = SamplingSettings(**{"max_new_tokens": 12, **(sampling or {})})
        model, _, encoder = parts
        opened.append(TransformersEngine(model, encoder, EngineOptions(sampling=sampling, **options)))
        return opened[-1]

    yield built
    for each in opened:
        each.close()


@pytest.fixture
def images(golden_folder):
    folder = golden_folder / "data" / "images"
    return [str(folder / name) for name in ("square_small.png", "tall_3to4.png")]


@pytest.fixture
def requests(images):
    return [
        Request("one", "<image>\nWhat is it?", {s: s + 100 for s in range(6)}, (images[0],)),
        Request("two", "<image> and <image>?", {s: s + 200 for s in range(5)}, tuple(images), max_tiles=3),
        Request("text", "How many?", {4: 1, 9: 2}),
        Request("prefix", "<image>\nDescribe", {0: 3, 1: 4, 2: 5}, (images[1],), prefix="Let me look at"),
    ]


def test_a_model_of_damaged_weights_is_an_error_and_no_answer(engine, requests, parts, monkeypatch):
    monkeypatch.setattr(parts[0].language_model.model.norm.weight, "data", torch.full((64,), math.nan))
    with pytest.raises(FloatingPointError, match="text: the logits are not finite: the weights are damaged"):
        list(engine().generate(requests[2:3]))


def test_samples_do_not_depend_on_their_company(engine, requests):
    together = texts(engine(max_rows=7), requests)
    assert len(together) == 16
    assert len({result.text for result in together.values()}) > 10
    assert texts(engine(max_rows=1), requests) == together
    assert texts(engine(max_rows=64), requests[::-1]) == together
    assert texts(engine(max_rows=3, vit_batch_size=1), [requests[1]]) == {
        key: result for key, result in together.items() if key[0] == "two"
    }


def test_greedy_answers_are_those_of_chat(parts, engine, requests, images):
    model, tokenizer, _ = parts
    greedy = texts(engine(sampling={"temperature": 0}), requests[:3])
    settings = {"max_new_tokens": 12, "do_sample": False}
    tiling = Tiling(image_size=56)
    for request in requests[:3]:
        pictures = [Image.open(path).convert("RGB") for path in request.images]
        tiles = [tiling.cut(p, tiling.plan([p.size], max_num=request.max_tiles)[0]) for p in pictures]
        pixels = torch.from_numpy(np.concatenate(tiles)) if tiles else None
        counts = [len(each) for each in tiles]
        answer = model.chat(tokenizer, pixels, request.question, settings, num_patches_list=counts)
        assert {result.text.strip() for key, result in greedy.items() if key[0] == request.key} == {answer}


@pytest.mark.parametrize("prefix", ["Let me look at", "先看图", "Sure.\n\n"])
def test_a_prefix_is_continued_within_the_assistants_turn(parts, engine, prefix):
    model, tokenizer, _ = parts
    found = texts(engine(sampling={"temperature": 0}), [Request("a", "Say a word", {0: 0}, prefix=prefix)])["a", 0].text
    prompt = tokenizer(model.conv_template.prompt([("user", "Say a word"), ("assistant", None)]))["input_ids"]
    ids = torch.tensor([prompt + tokenizer.encode(prefix, add_special_tokens=False)])
    output = model.language_model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert found == TextEncoder(tokenizer).decode(output[0, ids.shape[1] :].tolist())


def test_each_row_stops_at_its_own_stop_token(engine, requests, parts, monkeypatch):
    encoder, tokens = parts[2], {}
    decode = encoder.decode

    def remember(ids):
        tokens[decode(ids)] = list(ids)
        return decode(ids)

    monkeypatch.setattr(encoder, "decode", remember)
    unstopped = texts(engine(), requests[:1])
    drawn = [token for ids in tokens.values() for token in ids]
    written = dict(tokens)
    stop = max(set(drawn), key=drawn.count)
    stopping = engine()
    stopping.stop_ids = frozenset({stop})
    stopped = texts(stopping, requests[:1])
    assert any(result.finish == "stop" for result in stopped.values())
    for key, result in unstopped.items():
        ids = written[result.text]
        cut = ids.index(stop) if stop in ids else len(ids)
        assert stopped[key].text == decode(ids[:cut])
        assert stopped[key].finish == ("stop" if stop in ids else "length")


def test_image_and_prompt_are_computed_once_per_prompt(engine, requests, parts, monkeypatch):
    model = parts[0]
    seen, prefills = [], []
    extract, forward = model.extract_feature, model.language_model.forward

    def count_tiles(pixels):
        seen.append(len(pixels))
        return extract(pixels)

    def count_prefills(*args, inputs_embeds=None, **kwargs):
        if inputs_embeds is not None:
            prefills.append(inputs_embeds.shape[0])
        return forward(*args, inputs_embeds=inputs_embeds, **kwargs)

    monkeypatch.setattr(model, "extract_feature", count_tiles)
    monkeypatch.setattr(model.language_model, "forward", count_prefills)
    texts(engine(max_rows=16), requests[:1])
    assert seen == [1]
    assert prefills == [1]


def test_prompts_of_different_length_are_computed_as_alone(parts):
    model = parts[0]
    generator = torch.Generator().manual_seed(0)
    embeds = [torch.randn(length, 64, generator=generator) for length in (3, 9, 6)]
    together = prefill(model.language_model, embeds)
    assert together.lengths.tolist() == [3, 9, 6]
    for index, embed in enumerate(embeds):
        alone = prefill(model.language_model, [embed])
        assert torch.allclose(together.logits[index], alone.logits[0], atol=1e-5)
        assert torch.allclose(together.keys[0][index, :, -len(embed) :], alone.keys[0][0], atol=1e-5)
    cut = together.select([0, 2])
    assert cut.keys[0].shape[2] == 6 and cut.lengths.tolist() == [3, 6]
    assert torch.equal(cut.values[1][1], together.values[1][2, :, 3:])


def test_single_requests_may_fail(engine, requests, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG but no more")
    bad = [
        Request("broken", "<image>\nWhat?", {0: 1, 1: 2}, (str(broken),)),
        Request("places", "<image> <image> <image>", {0: 1}, requests[0].images),
        Request("long", "word " * 2000, {0: 1}),
    ]
    results = texts_and_failures(engine(session_len=600), [bad[0], requests[0], bad[1], bad[2], requests[2]])
    done, failures = results
    assert set(done) == {("one", s) for s in range(6)} | {("text", 4), ("text", 9)}
    assert "cannot be opened" in failures["broken"] or "broken image" in failures["broken"]
    assert "3 <image> in the question for 1 images" in failures["places"]
    assert "--session-len 600" in failures["long"]


def texts_and_failures(engine, requests):
    results = list(engine.generate(requests))
    failures = {result.key: result.reason for result in results if isinstance(result, Failure)}
    return {(r.key, r.sample): r.text for r in results if isinstance(r, Completion)}, failures


def test_the_session_ends_an_answer(engine, parts, monkeypatch):
    request = Request("a", "How many?", {0: 1, 1: 2})
    row, opening = parts[2].tokenize(request)
    lengths = []
    monkeypatch.setattr(parts[2], "decode", lambda ids: lengths.append(len(ids)) or "")
    results = texts(engine(session_len=len(row.prompt_ids([]) + opening) + 3), [request])
    assert {result.finish for result in results.values()} == {"length"}
    assert lengths == [3, 3]


def test_an_engine_failure_names_the_requests(engine, requests, parts, monkeypatch):
    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(parts[0].language_model, "forward", out_of_memory)
    with pytest.raises(EngineError, match=r"failed on two, one.*20 GiB.*--batch-size"):
        list(engine(max_rows=16).generate(requests[:2]))


def test_open_loads_a_checkpoint(golden_folder):
    options = EngineOptions(checkpoint=str(golden_folder / "ckpt" / "tiny-qwen2"), sampling=SamplingSettings())
    opened = open_engine("transformers", options)
    assert isinstance(opened, TransformersEngine)
    assert opened.stop_ids >= {opened.encoder._tokenizer.convert_tokens_to_ids("<|im_end|>")}
    opened.close()
    with pytest.raises(FileNotFoundError):
        open_engine("transformers", EngineOptions(checkpoint="no/such/folder"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_answers_on_a_gpu(golden_folder, requests):
    options = EngineOptions(
        checkpoint=str(golden_folder / "ckpt" / "tiny-qwen2"), sampling=SamplingSettings(max_new_tokens=12), max_rows=8
    )
    opened = open_engine("transformers", options)
    assert opened.model.device.type == "cuda" and opened.model.dtype == torch.bfloat16
    assert set(texts(opened, requests)) == {(request.key, sample) for request in requests for sample in request.seeds}
    opened.close()
