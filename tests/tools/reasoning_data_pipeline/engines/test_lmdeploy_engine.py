"""The lmdeploy engine against the installed package: what reaches lmdeploy's backend for each shape of message.

Everything of lmdeploy runs (pipeline, preprocessing, sessions, detokenizing loop) but the backend that needs a GPU: it
is replaced by one that records what it is asked and answers from the seed.
"""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from internvl_chat.data.images import Tiling
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.model import load_config, load_tokenizer
from internvl_chat.records.rows import Source
from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import (
    EngineError,
    EngineOptions,
    Failure,
    Request,
    SamplingSettings,
)

lmdeploy = pytest.importorskip(
    "lmdeploy", reason="lmdeploy is not installed (requirements-gpu.txt has it)", exc_type=ImportError
)

from lmdeploy.messages import EngineOutput, ResponseType  # noqa: E402
from lmdeploy.serve.core.async_engine import AsyncEngine  # noqa: E402

from tools.checkpoints.conversion import convert_to_hf  # noqa: E402
from tools.checkpoints.tiny import make_tiny_checkpoint  # noqa: E402
from tools.make_tiny_checkpoint import parse_arguments  # noqa: E402
from tools.reasoning_data_pipeline.engines import lmdeploy_engine  # noqa: E402

SETTINGS = SamplingSettings(temperature=0.7, top_k=20, top_p=0.9, max_new_tokens=8)


class RecordingBackend:
    """Stands for lmdeploy's TurboMind or PyTorch engine."""

    def __init__(self, config, stop_id):
        self.engine_config, self.stop_id = config, stop_id
        config.max_batch_size = 4
        self.requests, self.order = [], []
        self.failures = 0

    def create_instance(self):
        return self

    async def async_stream_infer(self, session_id, *, input_ids, gen_config, multimodal=None, stream_output, **rest):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.requests.append({"ids": list(input_ids), "config": gen_config, "mm": multimodal, "stream": stream_output})
        self.order.append(("start", gen_config.random_seed))
        answer = [40 + gen_config.random_seed % 7, 50]
        for token in answer:
            yield EngineOutput(ResponseType.SUCCESS, [token])
            self.order.append(("token", gen_config.random_seed))
        yield EngineOutput(ResponseType.FINISH, [self.stop_id])

    async def async_cancel(self, session_id):
        pass

    def close(self):
        pass


@pytest.fixture(params=["tiny-qwen2", "tiny-internlm2"])
def checkpoint(request, golden_folder):
    return golden_folder / "ckpt" / request.param


@pytest.fixture
def start(checkpoint, monkeypatch):
    """Function from engine options to a started engine on a recording backend."""
    engines = []

    def started(**options):
        stop_id = load_tokenizer(checkpoint).convert_tokens_to_ids("<|im_end|>")

        def build(self, model_path, backend_config=None, **rest):
            return RecordingBackend(backend_config, stop_id)

        monkeypatch.setattr(AsyncEngine, "_build_pytorch", build)
        options = {"checkpoint": str(checkpoint), "sampling": SETTINGS, "lmdeploy_backend": "pytorch", **options}
        engine = open_engine("lmdeploy", EngineOptions(**options))
        engines.append(engine)
        return engine, engine.pipe.async_engine.engine

    yield started
    for engine in engines:
        engine.close()


@pytest.fixture
def image(tmp_path):
    """Function from a size to the path of a picture."""

    def saved(width, height):
        path = tmp_path / f"{width}x{height}.png"
        pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return str(path)

    return saved


def training_ids(checkpoint, question, tiles=(), prefix=""):
    """The prompt as training tokenizes it, and the prefix."""
    config = load_config(checkpoint)
    rows = RowTokenizer(load_tokenizer(checkpoint), config.template, config.num_image_token)
    row = rows.tokenize(question, [prefix] if prefix else [], len(tiles), Source("test", 1))
    return row.prompt_ids(tiles) + (row.answers[0][:-1] if prefix else [])


def test_text_only(start, checkpoint):
    engine, backend = start()
    [result] = engine.generate([Request("a", "What is 1+2? <|im_end|>", {0: 5})])
    [request] = backend.requests
    assert request["ids"] == training_ids(checkpoint, "What is 1+2? <|im_end|>")
    assert request["mm"] is None
    config = request["config"]
    assert (config.temperature, config.top_k, config.top_p, config.max_new_tokens) == (0.7, 20, 0.9, 8)
    assert config.do_sample
    assert config.random_seed == 5
    assert load_tokenizer(checkpoint).convert_tokens_to_ids("<|im_end|>") in config.stop_token_ids
    assert (result.key, result.sample, result.finish) == ("a", 0, "stop")
    assert result.text == load_tokenizer(checkpoint).decode([45, 50])


def test_n_samples_share_one_preprocessing_and_the_first_runs_ahead(start, image):
    engine, backend = start()
    path = image(112, 56)
    results = list(engine.generate([Request("a", "<image>\nWhat?", {3: 10, 5: 11, 6: 12}, (path,))]))
    assert sorted((result.sample, result.text) for result in results) == [
        (sample, engine.encoder.decode([40 + seed % 7, 50])) for sample, seed in ((3, 10), (5, 11), (6, 12))
    ]
    assert [request["config"].random_seed for request in backend.requests] == [10, 11, 12]
    assert [request["stream"] for request in backend.requests] == [True, False, False]
    assert backend.order.index(("start", 11)) > 0, "the others start when the first has its prompt in the cache"
    pixels = [request["mm"][0]["pixel_values"] for request in backend.requests]
    assert all(tensor is pixels[0] for tensor in pixels)


def test_assistant_prefix_is_continued(start, checkpoint, image):
    engine, backend = start()
    prefix = "Let me look. 三角形 <|im_end|>"
    list(engine.generate([Request("a", "<image>\nWhat?", {0: 1}, (image(56, 56),), prefix=prefix)]))
    assert backend.requests[0]["ids"] == training_ids(checkpoint, "<image>\nWhat?", (1,), prefix)
    list(engine.generate([Request("a", "What?", {0: 1}, prefix=prefix)]))
    assert backend.requests[1]["ids"] == training_ids(checkpoint, "What?", (), prefix)


@pytest.mark.parametrize(("max_tiles", "tiles"), [(1, 1), (2, 3), (6, 7)])
def test_tile_limit_per_image_gives_the_tiles_of_training(start, checkpoint, image, max_tiles, tiles):
    engine, backend = start()
    path = image(168, 112) if max_tiles == 6 else image(112, 56)
    list(engine.generate([Request("a", "<image>\nWhat?", {0: 1}, (path,), max_tiles)]))
    [request] = backend.requests
    assert request["ids"] == training_ids(checkpoint, "<image>\nWhat?", (tiles,))
    tiling, picture = Tiling(image_size=56), Image.open(path)
    ours = torch.from_numpy(tiling.cut(picture, tiling.plan([picture.size], max_num=max_tiles)[0]))
    theirs = request["mm"][0]["pixel_values"].float()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = (theirs * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255
    assert torch.allclose(theirs, ours.float(), atol=0.5)


def test_several_images_in_their_places(start, checkpoint, image):
    engine, backend = start()
    paths = (image(56, 56), image(112, 56))
    list(engine.generate([Request("a", "First <image> and second <image>?", {0: 1}, paths, 2)]))
    [request] = backend.requests
    ids = training_ids(checkpoint, "First <image> and second <image>?", (1, 3))
    assert request["ids"] == ids
    context = load_tokenizer(checkpoint).convert_tokens_to_ids("<IMG_CONTEXT>")
    for item, tiles in zip(request["mm"], (1, 3), strict=True):
        span = ids[item["offset"] : item["offset"] + item["image_tokens"]]
        assert span == [context] * (4 * tiles)
        assert ids[item["offset"] - 1] != context != ids[item["offset"] + 4 * tiles]


def test_options_reach_the_backend_configuration(start):
    engine, backend = start(tp=2, session_len=777, cache_max_entry_count=0.3)
    config = backend.engine_config
    assert (config.tp, config.session_len, config.cache_max_entry_count) == (2, 777, 0.3)
    assert engine.max_in_flight == 8


def test_turbomind_is_configured_alike():
    config = lmdeploy_engine.backend_config(EngineOptions(tp=4, session_len=999, cache_max_entry_count=0.5))
    assert isinstance(config, lmdeploy.TurbomindEngineConfig)
    assert (config.tp, config.session_len, config.cache_max_entry_count) == (4, 999, 0.5)
    assert config.enable_prefix_caching


def test_temperature_zero_is_greedy(start):
    engine, backend = start(sampling=SamplingSettings(temperature=0, max_new_tokens=4))
    list(engine.generate([Request("a", "What?", {0: 1})]))
    assert backend.requests[0]["config"].top_k == 1


def test_many_requests_and_failures_of_single_ones(start, image, tmp_path):
    engine, backend = start(session_len=400)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    requests = [Request(f"r{i}", f"Question {i}", {0: 7 * i, 1: 7 * i + 1}) for i in range(10)]
    requests.insert(3, Request("broken", "<image>\nWhat?", {0: 1}, (str(broken),)))
    requests.insert(5, Request("long", "word " * 400, {0: 1}))
    results = list(engine.generate(requests))
    failures = {result.key: result.reason for result in results if isinstance(result, Failure)}
    assert set(failures) == {"broken", "long"}
    assert "cannot be opened" in failures["broken"]
    assert "--session-len 400" in failures["long"]  # the reason of all engines, before lmdeploy is asked
    done = {(result.key, result.sample) for result in results if not isinstance(result, Failure)}
    assert done == {(f"r{i}", sample) for i in range(10) for sample in (0, 1)}


def test_an_error_of_one_request_is_tried_once_more_and_then_counted(start):
    engine, backend = start()
    backend.failures = 1
    assert len(list(engine.generate([Request("a", "What?", {0: 1}), Request("b", "What?", {0: 2})]))) == 2
    backend.failures = 2
    results = list(engine.generate([Request("a", "What?", {0: 1})]))
    assert [type(result) for result in results] == [Failure] and results[0].reason.startswith("lmdeploy: ")


def test_an_engine_in_trouble_ends_the_run_and_names_a_request(start):
    engine, backend = start()
    backend.failures = 10**6
    with pytest.raises(EngineError, match=r"lmdeploy failed on row-\d+"):
        list(engine.generate([Request(f"row-{n}", "What?", {0: n}) for n in range(20)]))


def test_what_lmdeploy_does_otherwise_is_said(start, caplog):
    start(lmdeploy_backend="pytorch")
    assert "lmdeploy's pytorch backend caches no prefixes of this model" in caplog.text
    assert "fell back" not in caplog.text
    start(lmdeploy_backend="auto")
    assert "lmdeploy fell back to its pytorch backend" in caplog.text


def test_the_hf_layout_is_refused_with_the_cure(checkpoint, tmp_path):
    if checkpoint.name != "tiny-qwen2":
        pytest.skip("InternLM2 has no -hf form")
    convert_to_hf(checkpoint, tmp_path / "hf")
    with pytest.raises(ValueError, match=r"ignores the tile limit.*tools/convert\.py"):
        open_engine("lmdeploy", EngineOptions(checkpoint=str(tmp_path / "hf")))


def test_images_are_named_once_for_all_samples(start, image):
    engine, backend = start()
    list(engine.generate([Request("a", "<image>\nWhat?", {0: 1, 1: 2}, (image(112, 56),), 2)]))
    first, second = (request["mm"][0] for request in backend.requests)
    pixels = first["pixel_values"].contiguous().view(torch.uint8).numpy().tobytes()
    assert first["fingerprint"] == second["fingerprint"] == hashlib.sha256(pixels).digest()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["turbomind", "pytorch"])
def test_answers_on_a_gpu(backend, image, tmp_path):
    sizes = (
        "--hidden_size 512 --num_attention_heads 8 --image_size 224 --vit_hidden_size 256 --vit_num_attention_heads 4"
    )
    make_tiny_checkpoint(parse_arguments([*sizes.split(), "--out", str(tmp_path / "model")]))
    options = {"checkpoint": str(tmp_path / "model"), "session_len": 4096, "lmdeploy_backend": backend}
    engine = open_engine("lmdeploy", EngineOptions(sampling=SETTINGS, **options))
    seeds = dict(enumerate(range(6)))
    requests = [
        Request("image", "<image>\nWhat?", seeds, (image(448, 224),), max_tiles=6),
        Request("prefix", "<image>\nWhat?", seeds, (image(448, 224),), max_tiles=6, prefix="Let me look"),
        Request("text", "How many?", seeds),
    ]
    results = list(engine.generate(requests))
    engine.close()
    assert sorted((result.key, result.sample) for result in results) == [
        (key, sample) for key in ("image", "prefix", "text") for sample in range(6)
    ]
    assert len({result.text for result in results}) > 6
