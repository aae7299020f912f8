"""The short form of benchmarks/bench_sampling.py: the engine samples from the distribution of `generate`."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from tools.reasoning_data_pipeline.engines.protocol import Request, SamplingSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench_sampling")


def test_chi_square_by_hand(bench):
    # 60:40 against 40:60 of 100 each: statistic 8 with one degree of freedom, p = erfc(2) = 0.00468.
    first, second = ["a"] * 60 + ["b"] * 40, ["a"] * 40 + ["b"] * 60
    assert bench.chi_square_p(first, second) == pytest.approx(0.00468, abs=1e-5)
    assert bench.chi_square_p(first, first) == 1.0


def test_rare_outcomes_are_put_together(bench):
    first, second = ["a"] * 50 + [f"x{n}" for n in range(50)], ["a"] * 50 + [f"y{n}" for n in range(50)]
    assert bench.chi_square_p(first, second) == 1.0


def test_the_engine_samples_as_generate_does(bench):
    found = bench.measure_distributions(draws=400)
    assert found["same_distribution"], found


def test_another_temperature_is_noticed(bench):
    sampler = bench.Sampler(bench.GOLDEN / "ckpt" / "tiny-qwen2", max_new_tokens=6, max_rows=400)
    request = Request("text", "How many?", dict(enumerate(range(400))))
    theirs = sampler.by_generate(request, 400)
    sampling = SamplingSettings(temperature=0.7, top_k=50, max_new_tokens=6)
    sampler.engine.options = replace(sampler.engine.options, sampling=sampling)
    assert min(bench.compare_distributions(theirs, sampler.by_engine([request])).values()) < 1e-3
