"""The fuzzers' targets on their seeds and on what they once found, and a short search without their engine."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TARGETS = ("rows", "lines", "metas", "responses", "answers")
COMMON = settings(derandomize=True, deadline=None, max_examples=100)


@pytest.fixture(scope="module")
def targets(benchmark):
    return benchmark("fuzz_targets").TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_was_found_keep_the_promises(benchmark, targets, name):
    seeds = list(benchmark("fuzz_readers").seeds(name))
    assert seeds
    for seed in seeds:
        targets[name](seed)


def test_a_few_seeds_of_algebra_keep_the_promises(benchmark, targets):
    for seed in islice(benchmark("fuzz_readers").seeds("algebra"), 5):
        targets["algebra"](seed)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@COMMON
def test_any_bytes_keep_the_promises(targets, name, data):
    targets[name](data)


def test_a_broken_promise_is_a_finding(benchmark, targets, monkeypatch):
    module = benchmark("fuzz_targets")
    monkeypatch.setattr(module, "parse_answer", lambda text, version: module.JudgedAnswer("", "x", "", ""))
    with pytest.raises((AssertionError, AttributeError)):
        targets["responses"](b"\0no such text")
