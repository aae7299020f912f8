"""Pairs from rewards and verdicts, by hand, and that training takes them."""

import json
import re
from pathlib import Path

import pytest

from internvl_chat.data.mixture import Mixture
from tools.reasoning_data_pipeline.pairs.rewards import pairs_by_margin
from tools.reasoning_data_pipeline.reward_pairs import main

QUESTION = {"image": "a.png", "question": "What is 2 + 2?", "answer": "4"}


@pytest.fixture
def run(tmp_path):
    """Function from rows and flags to the pairs, as (chosen, rejected), and the folder."""

    def make(rows, *flags):
        folder = tmp_path / "scored"
        folder.mkdir(exist_ok=True)
        (folder / "made.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        main(["--data-dir", str(folder), "--save-dir", str(tmp_path / "pairs"), *flags])
        lines = (tmp_path / "pairs" / "raw" / "made_pairs_rewards.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], tmp_path / "pairs"

    return make


def scored(**rewards):
    return [{**QUESTION, "response": text, "reward": reward} for text, reward in rewards.items()]


def sides(pairs):
    return sorted((pair["chosen"], pair["rejected"]) for pair in pairs)


def test_rewards_that_are_far_enough_apart_make_pairs(run):
    pairs, _ = run(scored(good=1.0, fair=0.75, bad=0.5), "--min-margin", "0.5")
    assert sides(pairs) == [("good", "bad")]
    assert pairs[0] == {
        "image": "a.png",
        "question": "What is 2 + 2?",
        "answer_gt": "4",
        "chosen": "good",
        "rejected": "bad",
        "chosen_score": 1.0,
        "rejected_score": 0.5,
    }


def test_without_a_margin_only_equal_rewards_make_none():
    found = [pair[:2] for pair in pairs_by_margin({"a": 2.0, "b": 1.0, "c": 1.0}, 0.0)]
    assert found == [("a", "b"), ("a", "c")]


def test_equal_answers_have_the_mean_of_their_rewards(run):
    pairs, folder = run([*scored(a=1.0, b=0.6), *scored(a=0.0)])
    assert sides(pairs) == [("b", "a")]
    assert pairs[0]["rejected_score"] == 0.5
    assert json.loads((folder / "summary.json").read_text())["made"] == {
        "bad_rows": 0,
        "files": [str(folder.parent / "scored" / "made.jsonl")],
        "pairs": 1,
        "questions": 1,
        "questions_without_a_pair": 0,
        "rows": 3,
    }


def test_a_winner_makes_a_pair_with_each_other_answer(run):
    rows = [{"question": "Why?", "responses": ["a", "b", "a", "c"], "winner": 2}]
    rows += [{"question": "Why?", "responses": ["b", "c"], "winner": 1}, {"question": "How?", "responses": ["a", "b"]}]
    pairs, folder = run(rows)
    assert sides(pairs) == [("a", "b"), ("a", "c"), ("c", "b")]
    assert all("image" not in pair for pair in pairs)
    assert json.loads((folder / "summary.json").read_text())["made"]["questions_without_a_pair"] == 1


def test_no_more_pairs_of_a_question_than_asked_for(run):
    pairs, _ = run(scored(**{letter: index / 8 for index, letter in enumerate("abcdefgh")}), "--num-pairs-per-key", "5")
    assert len(pairs) == len(set(sides(pairs))) == 5


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"response": "a"}, "'reward' must be a number"),
        ({"response": "a", "reward": True}, "'reward' must be a number"),
        ({"response": "a", "reward": float("inf")}, "must be a number, not inf"),
        ({"response": " ", "reward": 1}, "'response' must be an answer"),
        ({"responses": ["a"], "winner": 0}, "two answers or more"),
        ({"responses": ["a", 1], "winner": 0}, "must hold answers, not 1"),
        ({"responses": ["a", " "], "winner": 1}, "'winner' is 1, an empty answer"),
        ({"responses": ["a", "b"], "winner": 2}, "'winner' must be in 0..1 or null"),
        ({"responses": ["a", "b"], "winner": True}, "'winner' must be in 0..1 or null"),
    ],
)
def test_rows_of_no_use_are_written_down(run, fields, reason):
    pairs, folder = run([*scored(a=1, b=0), {**QUESTION, **fields}])
    assert sides(pairs) == [("a", "b")]
    [reject] = map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())
    assert reject["line"] == 3 and reason in reject["reason"]


def test_the_mixture_can_be_trained_on(run, tmp_path):
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "a.png").write_bytes(b"")
    _, folder = run(scored(a=1, b=0))
    mixture = Mixture.from_meta(folder / "meta.json", cache_dir=tmp_path / "cache")
    assert len(mixture) == 1 and Path(mixture.datasets[0].root).resolve() == tmp_path / "scored"


def test_a_folder_without_rows_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--data-dir", str(tmp_path), "--save-dir", str(tmp_path / "pairs")])
    assert f"no *.jsonl below --data-dir {tmp_path}" in capsys.readouterr().err


def test_empty_answers_are_counted_and_never_paired(run):
    pairs, folder = run([{"question": "Why?", "responses": ["a", "", "b", "\u200b"], "winner": 0}])
    assert sides(pairs) == [("a", "b")]
    assert json.loads((folder / "summary.json").read_text())["made"]["empty_answers"] == 2


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (scored(a="0.9", b="0.1"), "2 rows could not be used .* field 'reward' must be a number, not '0.9'"),
        (scored(a=1, b=1), "no answers to one question differ as a pair must"),
        ([{"question": "Why?", "responses": ["a", "b"], "winner": None}], "no answers to one question differ"),
    ],
)
def test_a_run_that_made_no_pair_fails_and_says_why(tmp_path, capsys, rows, reason):
    (tmp_path / "made.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["--data-dir", str(tmp_path), "--save-dir", str(tmp_path / "pairs")]) == 1
    assert re.search(f"error: no row was made for meta.json: .*{reason}", capsys.readouterr().err)
