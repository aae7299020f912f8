"""The small world's critic in its shortest form, and what is told of labels and verdicts by hand-made ones."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
JUDGED = [(1, True, 0.2), (1, True, 0.6), (1, False, 0.6), (1, False, 0.2), (2, True, 0.9), (2, False, 0.1)]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("critic_world")


def test_labels_that_know_the_second_steps_only_are_told_by_place(bench):
    first, second = bench.by_place(JUDGED).values()
    assert first == {"steps": 4, "right": 0.5, "mean_score": 0.4, "auc": 0.5, "f1/macro": 0.5}
    assert second == {"steps": 2, "right": 0.5, "mean_score": 0.5, "auc": 1.0, "f1/macro": 1.0}
    assert bench.by_place([(1, True, 1.0)])["1"]["auc"] is None  # there is nothing to tell apart


def test_a_score_at_the_threshold_calls_a_step_wrong(bench):
    found = bench.f1([(1, True, 0.5), (1, True, 0.75), (2, False, 0.5)], 0.5)
    assert (found["steps"], found["f1/right"], found["f1/wrong"]) == (3, 0.6667, 0.6667)


def test_the_choices_of_all_seeds_are_compared_question_by_question(bench, tmp_path):
    """Of three questions the critic is right in two, the majority in one, an answer at random in half."""
    worlds = [bench.World(tmp_path / str(seed), seed) for seed in (0, 1)]
    asked = [(0, "a", 0, "wrong"), (0, "b", 0, "wrong"), (1, "a", 1, "correct")]
    for seed, key, chosen, majority in asked:
        row = {"way": "reasoned", "key": key, "outcomes": ["correct", "wrong"], "chosen": chosen}
        worlds[seed].folder.mkdir(exist_ok=True)
        with (worlds[seed].folder / "choice.answers.jsonl").open("a") as file:
            file.write(json.dumps(row | {"majority": {"outcome": majority}}) + "\n")
    found = bench.pooled(worlds)
    assert found["best against majority"]["difference"] == pytest.approx(33.33, abs=0.01)
    assert found["best against one"]["difference"] == pytest.approx(16.67, abs=0.01)


@pytest.mark.integration
def test_it_runs(bench, tmp_path, monkeypatch):
    """All stages on four prompts, in this process; a second run makes none of them again."""
    small = {"prompts": 4, "held_out": 4, "answers": 2, "continuations": 2, "samples": 2, "epochs": 1}
    world = bench.World(tmp_path / "0", 0, **small)
    done = []

    def command(module, *flags):
        done.append(module)
        importlib.import_module(module).main(list(map(str, flags)))

    monkeypatch.setattr(bench, "command", command)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(bench.ROOT)
    bench.run_stages(world, "verdicts")
    found = bench.figures(world)
    assert found["best_of"]["questions"] == 4 and found["best_of"]["unscored"] == 0
    assert set(found["verdicts"]) == {"critic", "places", "labels", "label_places"}
    assert all(0 < loss < 2 for loss in found["losses"].values()) and found["losses"]
    assert set(found["seconds"]) == set(bench.STAGES) and len(done) == 6
    bench.run_stages(world, "verdicts")
    assert len(done) == 6
