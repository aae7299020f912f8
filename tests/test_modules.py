"""How many modules a pair and a prompt pass: the way through the program stays short enough to be followed."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MOST = {"pair": 25, "prompt": 26}


@pytest.fixture(scope="module")
def counted():
    """The figures of benchmarks/count_modules.py, measured now."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import count_modules

        return count_modules.count()
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.integration
@pytest.mark.parametrize("way", MOST)
def test_the_way_is_short(counted, way):
    found = counted[way]
    assert len(set(found["passed"])) == found["modules"] <= MOST[way], found["passed"]


@pytest.mark.integration
def test_the_way_is_the_whole_one(counted):
    """Its first module and its last one, and what lies between."""
    pair, prompt = (set(counted[way]["passed"]) for way in ("pair", "prompt"))
    assert {
        f"internvl_chat.{name}" for name in ("records.meta", "packed.packing", "losses.pair", "checkpoint.export")
    } <= pair
    tools = "tools.reasoning_data_pipeline"
    assert {f"{tools}.sampling.pipeline", f"{tools}.answers.checker", f"{tools}.pairs.correctness"} <= prompt
