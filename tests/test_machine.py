"""What the benchmarks share: the description of a machine, medians taken in turns."""

from benchmarks.machine import describe_machine, interleaved_medians


def test_description_names_machine_and_versions():
    machine = describe_machine(("numpy", "no-such-package"))
    assert machine["cores"] >= 1 and machine["memory_gib"] > 0 and machine["cpu"]
    assert machine["numpy"].count(".") == 2 and machine["no-such-package"] is None


def test_functions_take_turns_and_the_first_round_is_not_timed():
    calls = []
    seconds = interleaved_medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"} and all(value >= 0 for value in seconds.values())
