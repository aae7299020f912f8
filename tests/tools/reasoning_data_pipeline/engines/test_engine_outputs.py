"""The same command with each engine: files of the same names, rows of the same fields, the same prompts given up."""

import importlib
import json
from pathlib import Path

import pytest

from tests.tools import stand_ins
from tools.reasoning_data_pipeline import (
    mmpr_data_pipeline_correctness,
    mmpr_data_pipeline_dropout_ntp,
    visualprm_data_pipeline,
)

ROOT = Path(__file__).parents[4]
ENGINES = ["transformers", "vllm", "server", "lmdeploy"]
PIPELINES = {
    "correctness": (mmpr_data_pipeline_correctness, ["--num-return-sequences", "3", "--dynamic", "--max-num", "3"]),
    "dropout_ntp": (mmpr_data_pipeline_dropout_ntp, ["--start-ratio", "0.5"]),
    "visualprm": (visualprm_data_pipeline, ["--num-return-sequences", "1", "--num-mc-sequences", "2"]),
}


@pytest.fixture
def prompts(work):
    """Two good prompts, one whose image is missing, one that is too long."""
    rows = [
        {"image": "images/square_small.png", "question": "<image>\nHow many?", "answer": "3"},
        {"question": "What is 1 + 2?", "answer": "3", "chosen": "It is one more than two.\n\nFinal answer: 3"},
        {"image": "images/gone.png", "question": "How many?", "answer": "3", "chosen": "There are three."},
        {"question": "word " * 700, "answer": "3", "chosen": "There are three."},
    ]
    path = work / "prompts.jsonl"
    path.write_text("".join(json.dumps({"rejected": None, **row}) + "\n" for row in rows))
    return path


@pytest.fixture
def run(work, golden_folder, prompts, monkeypatch):
    """Function from an engine and a pipeline to {file: rows}, and the reasons of the prompts that it gave up."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    checkpoint = golden_folder / "ckpt" / "tiny-qwen2"
    server = importlib.import_module("fake_server").FakeServer(checkpoint).start()

    def ran(engine, pipeline):
        module, flags = PIPELINES[pipeline]
        if engine in ("vllm", "lmdeploy"):
            stand_ins.install(monkeypatch, engine)
        out = work / f"{engine}-{pipeline}"
        flags = [*flags, "--checkpoint", str(checkpoint), "--prompt-path", str(prompts), "--out-dir", str(out)]
        flags += ["--engine", engine, "--session-len", "500", "--max-new-tokens", "24", "--keep-logprobs"]
        module.main([*flags, *(["--server", server.url] if engine == "server" else [])])
        files = {path.relative_to(out): path for path in sorted(out.rglob("*.jsonl")) if ".parts" not in str(path)}
        rows = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.items()}
        rejected = [json.loads(line) for path in out.rglob("rejects.jsonl") for line in path.read_text().splitlines()]
        return rows, sorted((row["line"], row["reason"]) for row in rejected)

    yield ran
    server.stop()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_files_fields_and_rejects_are_the_same(run, pipeline):
    found = {engine: run(engine, pipeline) for engine in ENGINES}
    rows, rejects = found["transformers"]
    kept = {"response_token_ids", "response_logprobs"}
    fields = [sorted(set(row) - kept) for of_file in rows.values() for row in of_file]
    assert fields and {line for line, _ in rejects} >= {3, 4}
    for engine in ENGINES:
        theirs, their_rejects = found[engine]
        assert list(theirs) == list(rows), engine
        assert their_rejects == rejects, engine
        assert {tuple(sorted(set(row) - kept)) for of_file in theirs.values() for row in of_file} == set(
            map(tuple, fields)
        ), engine
        if pipeline == "correctness":
            has_logprobs = engine != "lmdeploy"
            assert all((kept <= set(row)) == has_logprobs for of_file in theirs.values() for row in of_file), engine
            assert [len(of_file) for of_file in theirs.values()] == [6]
