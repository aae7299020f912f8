"""Benchmark rows of the small world: the truth about every step."""

import json

import pytest

from data.make_process_rows import main as make_rows
from data.make_visual_reasoning import make_visual_reasoning, parse_arguments
from internvl_chat.records.rows import RecordError, Source
from tools.evaluate_critic import evaluate_critic
from tools.evaluate_critic import parse_arguments as parse_critic
from tools.visual_reasoning.process_rows import CAREFUL, CARELESS, process_rows

WHERE = Source("answers.jsonl", 3)
SOLUTION = "red circle, nothing.\n\nred shapes: red circle: 1.\n\nFinal answer: 1"
SLIP = "nothing, nothing.\n\nred shapes: red circle: 1.\n\nFinal answer: 0"
ROW = {
    "image": "images/a.png",
    "question": "<image>\nHow many?",
    "answer": "1",
    "task": "count",
    "right_response": SOLUTION,
}


def test_a_step_is_right_where_the_solution_has_it():
    [row] = process_rows({**ROW, "response": SLIP}, WHERE, "tiny")
    assert row["response"] == {"steps": SLIP.split("\n\n"), "process_correctness": [-1, 1, -1]}
    assert (row["image"], row["data_source"], row["policy_model"]) == ("images/a.png", "count", "tiny")


def test_estimates_stay_with_their_steps_and_a_joined_step_needs_all_its_parts():
    joined = ["red circle, nothing.\n\nred shapes: red circle: 1.", "\n", "red shapes: none: 0.\n\nFinal answer: 1"]
    scored = [{"step": step, "score": 0.5, "num_mc_correct": 2, "num_mc_total": 4} for step in joined]
    [row] = process_rows({**ROW, "steps_with_score": scored}, WHERE, "tiny")
    assert row["response"]["process_correctness"] == [1, -1]
    assert row["steps_with_score"] == [scored[0], scored[2]]


def test_a_pair_gives_the_right_steps_and_the_careless_ones():
    careful, careless = process_rows({**ROW, "chosen": SOLUTION, "rejected": SLIP}, WHERE, "")
    assert careful["response"]["process_correctness"] == [1, 1, 1] and careful["policy_model"] == CAREFUL
    assert careless["response"]["process_correctness"] == [-1, 1, -1] and careless["policy_model"] == CARELESS


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"right_response": None}, "field 'right_response' must be the right steps, not None"),
        ({"response": None}, "no answer"),
    ],
)
def test_rows_of_another_world(change, reason):
    with pytest.raises(RecordError, match=f"answers.jsonl:3: {reason}"):
        list(process_rows({**ROW, "response": SLIP, **change}, WHERE, ""))


def test_what_the_generator_writes_is_a_benchmark_that_measures_scores(tmp_path, capsys):
    """Perfect scores have 100, at every threshold in between; those who call every step right have what is told."""
    make_visual_reasoning(parse_arguments(f"--out {tmp_path} --pairs 0 --held_out 20".split()))
    bench, scores = tmp_path / "process.jsonl", tmp_path / "scores.jsonl"
    make_rows(["--answers", str(tmp_path / "held_out_pairs.jsonl"), "--out", str(bench)])
    rows = [json.loads(line) for line in bench.read_text().splitlines()]
    labels = [row["response"]["process_correctness"] for row in rows]
    wrong = sum(found.count(-1) for found in labels)
    assert f"40 answers, {sum(map(len, labels)) - wrong} right steps, {wrong} wrong ones" in capsys.readouterr().out
    assert wrong >= 20  # every slip has a wrong first step at least
    scores.write_text("".join(json.dumps({"pred": found}) + "\n" for found in labels))
    words = f"--benchmark {bench} --scores {scores} --image-root {tmp_path}/images"
    report = evaluate_critic(parse_critic(words.split()))
    assert report["overall"]["pooled"]["macro_f1"] == report["first_error"]["f1"] == 100.0 > report["chance"]["coin"]
