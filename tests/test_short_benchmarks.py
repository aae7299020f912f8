"""Benchmarks that no other test runs, in their shortest form: they end and write their figures."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
SHORTEST = {  # command -> the file it writes, or None where the short form only prints, and figures in it
    "bench_validate --rows 8 --picture-rows 4": ("validate", ["text", "pictures_decoded", "whole_run"]),
    "bench_tiles --rounds 1 --images 2": ("tiles", []),
    "bench_unpacking --members 200": (None, []),
}


@pytest.fixture
def module_of(monkeypatch):
    """Function from the name of a benchmark to its module, imported as its script imports others."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.integration
@pytest.mark.parametrize("command", SHORTEST)
def test_it_runs(module_of, tmp_path, monkeypatch, capsys, command):
    name, *words = command.split()
    written, figures = SHORTEST[command]
    monkeypatch.setattr(module_of("machine"), "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module_of(name).main()
    if written is None:
        assert capsys.readouterr().out
        return
    found = json.loads((tmp_path / f"{written}.json").read_text())
    assert {"machine", "command", *figures} <= set(found)


@pytest.mark.integration
def test_the_estimate_of_memory_is_compared_with_what_is_alive(module_of, tmp_path, monkeypatch):
    bench = module_of("bench_footprint")
    monkeypatch.setattr(module_of("machine"), "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "CASES", [bench.Case("InternVL2_5-1B", layers=1)])
    bench.main()
    assert (tmp_path / "footprint.json").is_file()


@pytest.mark.integration
def test_formats_are_compared_by_products_steps_and_answers(module_of, tmp_path, monkeypatch):
    bench = module_of("bench_bfloat16")
    monkeypatch.setattr(module_of("machine"), "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "SIZES", {"quickstart": bench.SIZES["quickstart"]})
    monkeypatch.setattr(bench, "PAIRS", {"quickstart": 1})
    monkeypatch.setattr(bench, "ANSWERS", 2)
    monkeypatch.setattr(sys, "argv", ["bench_bfloat16.py", "--rounds", "1"])
    threads = torch.get_num_threads()
    bench.main()
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "bfloat16.json").read_text())
    assert set(found["instructions"]) == set(bench.INSTRUCTIONS)
    assert all(found["quickstart"][part]["speed"] > 0 for part in ("product", "training step", "answers"))


def test_a_mixture_is_made_and_read(module_of, tmp_path, monkeypatch, capsys):
    """A batch of 2 in this process in place of 20 of 8 in another one with workers."""
    bench = module_of("bench_mixture")
    for name, number in (("WORKERS", 0), ("BATCH", 2), ("BATCHES", 1)):
        monkeypatch.setattr(bench, name, number)
    assert bench.make_mixture(tmp_path, 100) == {"0.13": 9, "2.5": 83}  # of 67 and 33 rows, rounded to the nearest
    bench.read_batches(str(tmp_path / "meta.json"), str(tmp_path / "cache"))
    assert json.loads(capsys.readouterr().out)["rows_read"] == 2


def test_a_test_knows_each_benchmark():
    words = {word for path in TESTS.rglob("*.py") for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    names = {path.stem for path in BENCHMARKS.glob("bench_*.py")}
    assert names - words == set()
