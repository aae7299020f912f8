"""The server engine against servers without a model: honest, slow, failing, lying, dead."""

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_chat.model import load_tokenizer
from tools.reasoning_data_pipeline.engines import server_pool
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import (
    Completion,
    EngineError,
    EngineOptions,
    Failure,
    Request,
    SamplingSettings,
    ServerOptions,
)
from tools.reasoning_data_pipeline.engines.scripted import ScriptedEngine
from tools.reasoning_data_pipeline.engines.server_client import Server
from tools.reasoning_data_pipeline.engines.server_requests import DIALECTS, image_url

ROOT = Path(__file__).parents[4]
ASKS = 'Answer and end with "Final answer: .."'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(server_pool, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(server_pool, "SHORTEST_REST", 0.02)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fake_server")


@pytest.fixture
def checkpoint(golden_folder):
    return golden_folder / "ckpt" / "tiny-qwen2"


@pytest.fixture
def serve(fake, checkpoint):
    """Function from habits to a running server."""
    running = []

    def started(dialect=DIALECTS[0], port=0, **habits):
        server = fake.FakeServer(checkpoint, habits=fake.Habits(**habits), dialect=dialect, port=port).start()
        running.append(server)
        return server

    yield started
    for server in running:
        server.stop()


@pytest.fixture
def engine(checkpoint):
    """Function from servers and options to an engine."""
    opened = []

    def built(*servers, temperature=1.0, logprobs=False, session_len=2048, max_new_tokens=64, **options):
        urls = tuple(getattr(server, "url", server) for server in servers)
        asked = ServerOptions(**{"urls": urls, "deadline": 20.0, "patience": 0.3, "in_flight": 16, **options})
        sampling = SamplingSettings(temperature=temperature, max_new_tokens=max_new_tokens)
        settings = EngineOptions(str(checkpoint), sampling, logprobs=logprobs, server=asked, session_len=session_len)
        opened.append(open_engine("server", settings))
        return opened[-1]

    yield built
    for each in opened:
        each.close()


@pytest.fixture
def picture(tmp_path):
    """Function from a size to the path of a picture."""

    def saved(width, height, name=None, **options):
        path = tmp_path / (name or f"{width}x{height}.png")
        pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return str(path)

    return saved


def expected(request, prefix=""):
    """Sample -> text, where sample i has the base seed + i, or its own."""
    base = request.base_seed
    seeds = {s: seed if base is None else base + s for s, seed in request.seeds.items()}
    return {(request.key, s): ScriptedEngine().text(request, seed) for s, seed in seeds.items()}


def split(results):
    """(key, sample) -> text, and key -> reason."""
    results = list(results)
    done = {(r.key, r.sample): r.text for r in results if isinstance(r, Completion)}
    assert len(done) == sum(isinstance(r, Completion) for r in results)
    return done, {r.key: r.reason for r in results if isinstance(r, Failure)}


def many(count=12, samples=4):
    return [Request(f"r{n}", f"{ASKS} {n}", dict.fromkeys(range(samples), 0), base_seed=100 * n) for n in range(count)]


def all_expected(requests):
    return {key: text for request in requests for key, text in expected(request).items()}


# -- what is sent and what comes back ----------------------------------------------------------------------------------


def test_samples_of_a_request_come_in_one_with_consecutive_seeds(serve, engine, checkpoint):
    server = serve()
    asking = engine(server)
    checks = len(server.asked)
    request = Request("a", ASKS, {0: 1, 1: 2, 2: 3, 5: 4}, base_seed=1000)
    results = list(asking.generate([request]))
    assert split(results) == (expected(request), {})
    assert sorted((body["seed"], body["n"]) for body in server.asked[checks:]) == [(1000, 3), (1005, 1)]
    tokenizer = load_tokenizer(checkpoint)
    for result in results:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert result.tokens == (*tokenizer.encode(result.text), end) and result.finish == "stop"
        assert result.logprobs is None


def test_without_a_base_seed_each_sample_has_its_own(serve, engine):
    server = serve()
    asking = engine(server)
    checks = len(server.asked)
    request = Request("a", ASKS, {3: 77, 4: 5})
    assert split(asking.generate([request])) == (expected(request), {})
    assert sorted((body["seed"], body["n"]) for body in server.asked[checks:]) == [(5, 1), (77, 1)]


@pytest.mark.parametrize("seeds", ["same", "none"])
def test_a_server_without_such_seeds_is_asked_sample_by_sample(serve, engine, seeds, caplog):
    server = serve(seeds=seeds)
    asking = engine(server)
    checks = len(server.asked)
    results, failures = split(asking.generate([Request("a", ASKS, {0: 1, 1: 2}, base_seed=50)]))
    assert [body["n"] for body in server.asked[checks:]] == [1, 1]
    assert sorted(body["seed"] for body in server.asked[checks:]) == [50, 51]
    assert len(results) == 2 and not failures
    assert ("other answers to the same seed" in caplog.text) == (seeds == "none")


def test_the_most_likely_answer_is_asked_for_once(serve, engine):
    server = serve()
    asking = engine(server, temperature=0)
    checks = len(server.asked)
    results = list(asking.generate([Request("a", ASKS, {0: 9, 1: 9, 2: 9})]))
    assert len({result.text for result in results}) == 1 and [r.sample for r in results] == [0, 1, 2]
    [body] = server.asked[checks:]
    assert (body["n"], body["temperature"]) == (1, 0)


def test_all_settings_are_sent(serve, engine):
    server = serve()
    asking = engine(server, temperature=0.7, max_new_tokens=9, logprobs=True)
    results = list(asking.generate([Request("a", ASKS, {0: 1})]))
    body = server.asked[-1]
    assert (body["temperature"], body["top_k"], body["top_p"], body["max_tokens"]) == (0.7, 50, 1.0, 9)
    assert (body["min_p"], body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (
        0,
        1,
        0,
        0,
    )
    assert body["stop_token_ids"] == sorted(asking.asking.stop_ids) and body["return_token_ids"] is True
    assert results[0].finish == "length" and len(results[0].tokens) == 9
    assert results[0].logprobs == tuple(-1 / (1 + token) for token in results[0].tokens)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_images_limits_and_prefixes_in_every_dialect(serve, engine, picture, dialect):
    asking = engine(serve(dialect))
    requests = [
        Request(f"at {limit}", f"<image>\n{ASKS}", {0: 3}, (picture(168, 112),), max_tiles=limit) for limit in (1, 6)
    ]
    requests.append(
        Request("two", "<image>\n<image>\nAlike?", {0: 1}, (picture(56, 56), picture(112, 56)), max_tiles=2)
    )
    requests.append(Request("prefix", f"<image>\n{ASKS}", {0: 1}, (picture(56, 56),), prefix="Let me look. \n\nI see "))
    done, failures = split(asking.generate(requests))
    assert failures == {} and done == all_expected(requests)


def test_an_image_within_a_line_is_said_where_the_dialect_can(serve, engine, picture):
    request = Request("a", "Is <image> like <image>?", {0: 1}, (picture(56, 56),) * 2)
    assert split(engine(serve(DIALECTS[0])).generate([request]))[1] == {}
    assert "reads this prompt otherwise" in split(engine(serve(DIALECTS[1])).generate([request]))[1]["a"]


def test_images_by_path_below_the_media_root_and_as_data_elsewhere(serve, engine, picture, tmp_path):
    server = serve()
    asking = engine(server, media_root=str(tmp_path))
    list(asking.generate([Request("a", "<image>\nWhat?", {0: 1}, (picture(56, 56),))]))
    [part] = [part for part in server.asked[-1]["messages"][1]["content"] if part["type"] == "image_url"]
    assert part["image_url"]["url"] == (tmp_path / "56x56.png").as_uri()
    image = Image.open(tmp_path / "56x56.png")
    assert image_url(str(tmp_path / "56x56.png"), image, str(tmp_path / "other")).startswith("data:image/png;base64,")


def test_pictures_that_others_read_differently_are_sent_as_training_sees_them(picture, tmp_path):
    turned = Image.Exif()
    turned[274] = 6
    path = picture(20, 10, "turned.jpg", exif=turned)
    assert image_url(path, Image.open(path).convert("RGB"), str(tmp_path)).startswith("data:image/png")
    plain = picture(20, 10, "plain.jpg")
    assert image_url(plain, Image.open(plain), "").startswith("data:image/jpeg")


# -- servers that are unlike training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("returns_ids", [True, False])
@pytest.mark.parametrize(
    ("habits", "reason"),
    [
        (
            {"system": "You are a helpful bot."},
            r"a text prompt: another chat template: \d+ tokens where training has \d+",
        ),
        ({"more_tiles": 1}, r"a picture of 2 tiles otherwise .*asked as vLLM: \d+ tokens where training has \d+"),
        ({"ignores_limit": True}, r"a picture of 2 tiles otherwise"),
        ({"strips": True}, r"an assistant prefix: \d+ tokens where training has \d+"),
    ],
)
def test_a_server_that_reads_otherwise_is_refused_with_both_numbers(serve, engine, habits, reason, returns_ids):
    with pytest.raises(ValueError, match=reason):
        engine(serve(**habits, returns_ids=returns_ids))


def test_a_server_that_does_not_stop_is_refused(serve, engine):
    with pytest.raises(ValueError, match="does not end an answer at"):
        engine(serve(stops=False))


def test_a_server_without_logit_bias_is_taken_with_a_warning(serve, engine, caplog):
    engine(serve(takes_bias=False))
    assert "ignores logit_bias: where it ends an answer was not tested" in caplog.text


def test_a_server_of_another_model_is_refused_and_passed_over_beside_the_right_one(serve, engine):
    other = serve(names=("elsewhere/another-model",))
    with pytest.raises(ValueError, match=r"serves elsewhere/another-model.*--server-model"):
        engine(other)
    requests = many(2)
    assert split(engine(other, serve()).generate(requests)) == (all_expected(requests), {})
    assert split(engine(other, model="elsewhere/another-model").generate(requests)) == (all_expected(requests), {})


def test_a_prompt_that_the_server_reads_otherwise_is_given_up_and_no_other(serve, engine, monkeypatch):
    server = serve()
    asking = engine(server)
    honest = server.prompt_ids
    monkeypatch.setattr(server, "prompt_ids", lambda body: honest(body) + [5] * ("odd" in str(body["messages"])))
    requests = [*many(2), Request("odd", "an odd one", {0: 1, 1: 2}, base_seed=3)]
    done, failures = split(asking.generate(requests))
    assert done == all_expected(requests[:2])
    assert "reads this prompt otherwise" in failures["odd"]


def test_a_server_that_becomes_another_one_is_not_asked_any_more(serve, engine):
    turning, steady = serve(), serve()
    asking = engine(turning, steady)
    turning.habits.system = "Now I am somebody else."
    requests = many()
    assert split(asking.generate(requests)) == (all_expected(requests), {})
    seen = len(turning.asked)
    list(asking.generate(many(3)))
    assert len(turning.asked) == seen


# -- servers that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", "garbage", "fewer", "unstopped"])
def test_a_failed_request_is_tried_again_with_the_same_seed(serve, engine, fake, kind):
    server = serve()
    asking = engine(server)
    server.faults += [fake.Fault(kind)] * 3
    requests = many()
    assert split(asking.generate(requests)) == (all_expected(requests), {})


def test_states_are_tried_again_and_then_counted(serve, engine, fake):
    server = serve()
    asking = engine(server, retries=2, in_flight=1)
    requests = many(1, samples=1)
    server.faults += [fake.Fault("status", 500), fake.Fault("status", 502)]
    assert split(asking.generate(requests)) == (all_expected(requests), {})
    server.faults += [fake.Fault("status", 500)] * 3
    done, failures = split(asking.generate([*many(1, samples=1), replace(many(2)[1], seeds={0: 0})]))
    assert len(failures) == 1 and "3 tries failed, the last one at" in next(iter(failures.values()))
    assert len(done) == 1


def test_a_busy_server_is_left_alone_for_a_while(serve, engine, fake):
    server = serve()
    asking = engine(server)
    server.faults += [fake.Fault("status", status, {"Retry-After": "0.1"}) for status in (429, 503) * 20]
    requests = many()
    assert split(asking.generate(requests)) == (all_expected(requests), {})


def test_a_refused_request_is_a_failure_at_once(serve, engine, fake):
    server = serve()
    asking = engine(server)
    checks = len(server.asked)
    server.faults.append(fake.Fault("status", 400))
    done, failures = split(asking.generate([Request("a", ASKS, {0: 1})]))
    assert failures == {"a": f"{server.url}: status 400: told to say 400"} and not done
    assert len(server.asked) == checks + 1


def test_an_answer_that_drips_in_is_given_up_at_the_deadline(serve, engine, fake):
    server = serve()
    asking = engine(server, deadline=0.5)
    server.faults.append(fake.Fault("drip"))
    begin = time.monotonic()
    requests = many(1, samples=1)
    assert split(asking.generate(requests)) == (all_expected(requests), {})
    assert 0.4 < time.monotonic() - begin < 5


def test_slow_servers_are_asked_side_by_side(serve, engine):
    servers = [serve(), serve()]
    asking = engine(*servers)
    for server in servers:
        server.habits.delay = 0.3
    requests = many(16, samples=2)
    begin = time.monotonic()
    assert split(asking.generate(requests)) == (all_expected(requests), {})
    assert time.monotonic() - begin < 16 * 0.3
    assert all(len(server.asked) > 8 for server in servers)


def test_a_server_that_dies_loses_nothing(serve, engine):
    dying, steady = serve(), serve()
    asking = engine(dying, steady)
    requests = many(20)
    results = []
    for number, result in enumerate(asking.generate(requests)):
        results.append(result)
        if number == 5:
            dying.stop()
    assert split(results) == (all_expected(requests), {})


def test_a_server_that_comes_back_is_asked_again(serve, engine):
    server = serve()
    asking = engine(server, patience=20.0)
    port = server.server_address[1]
    server.stop()
    requests = many(3)
    answers = asking.generate(requests)
    threading.Timer(0.4, serve, kwargs={"port": port}).start()
    assert split(answers) == (all_expected(requests), {})


def test_the_run_ends_when_no_server_is_left(serve, engine):
    server = serve()
    asking = engine(server)
    server.stop()
    with pytest.raises(EngineError, match=r"r0 and those behind it are not answered: no server is left of http"):
        list(asking.generate(many(1)))


def test_no_server_at_start(engine, fake, checkpoint):
    server = fake.FakeServer(checkpoint)
    server.server_close()
    with pytest.raises(EngineError, match="no server answers of"):
        engine(server)


def test_a_key_that_is_missing_is_said(serve, engine, fake):
    server = serve()
    server.faults.append(fake.Fault("status", 401))
    with pytest.raises(EngineError, match="the check at start failed.*status 401"):
        engine(server)


@pytest.mark.parametrize("url", ["node7:8000", "ftp://node7", "http://", ""])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match="is no URL such as"):
        Server(url)


def test_the_key_goes_to_the_server_alone(serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server = Server(f"{serve().url}/v1/", key="secret")
    assert server.get("models")["data"] and "secret" not in str(server)
    assert server._session.headers["Authorization"] == "Bearer secret"


def test_requests_that_cannot_be_read_fail_as_in_the_other_engines(serve, engine, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    requests = [
        Request("broken", "<image>\nWhat?", {0: 1, 1: 2}, (str(tmp_path / "broken.png"),)),
        Request("places", "<image> <image>", {0: 1}, (str(tmp_path / "broken.png"),) * 3),
        Request("long", "word " * 3000, {0: 1}),
    ]
    done, failures = split(engine(serve()).generate(requests))
    assert not done and set(failures) == {"broken", "places", "long"}
    assert "cannot be opened" in failures["broken"] and "--session-len 2048" in failures["long"]


@pytest.mark.integration
def test_the_kill_benchmark_in_its_short_form():
    """Two kills of real servers and ranks; the long form is committed with its result."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_server.py"), "--kills", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures.get("servers killed", 0) + figures.get("ranks killed", 0) >= 2
    assert figures["runs equal to the undisturbed one"] >= 1 and figures["answers per run"] == 480
