"""Scores that are made, kept and read."""

import json
from pathlib import Path

import pytest

from internvl_chat.records.rows import RecordError
from tests.tools.critic_benchmark.conftest import PUBLISHED
from tools.critic_benchmark.rows import read_benchmark
from tools.critic_benchmark.scores import groups_of, read_scores, score_rows


class ScriptedCritic:
    """Scores a step by its length; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, question, images, candidates):
        self.asked.append((question, [image.size for image in images], len(candidates)))
        return [[min(1.0, len(step) / 10) for step in steps] for steps in candidates]


LENGTHS = [1.0, 0.3, 0.5]


@pytest.fixture
def rows(published):
    """Two answers to one question, one to another."""
    return read_benchmark(published({}, {"answer": "3"}, {"question": "Why?"})).rows


def test_answers_to_one_question_are_scored_together(rows):
    critic = ScriptedCritic()
    scores = score_rows(rows, lambda: critic, by="x", kept=None, at_once=8)
    assert list(scores.values()) == [LENGTHS] * 3
    assert critic.asked == [("<image1> How many?", [(56, 56)], 2), ("Why?", [(56, 56)], 1)]
    assert [len(group) for group in groups_of(rows, 1)] == [1, 1, 1]


def test_a_scoring_that_was_stopped_goes_on(rows, tmp_path):
    file, first = tmp_path / "x.scores.jsonl", ScriptedCritic()
    score_rows(rows[2:], lambda: first, by="x", kept=file, at_once=8)
    file.write_bytes(file.read_bytes() + b'{"row": "torn')
    second = ScriptedCritic()
    scores = score_rows(rows, lambda: second, by="x", kept=file, at_once=8)
    assert list(scores) == [rows[2].key, rows[0].key, rows[1].key] and len(second.asked) == 1
    assert score_rows(rows, None, by="x", kept=file, at_once=8) == scores  # nothing is opened for nothing
    assert [json.loads(line)["by"] for line in file.read_text().splitlines()] == ["x"] * 3


def test_scores_of_another_critic_are_not_taken(rows, tmp_path):
    file, critic = tmp_path / "x.scores.jsonl", ScriptedCritic()
    file.write_text(json.dumps({"row": rows[0].key, "by": "other", "scores": [0.0] * 3}) + "\n")
    assert score_rows(rows, lambda: critic, by="x", kept=file, at_once=8)[rows[0].key] == LENGTHS
    assert len(file.read_text().splitlines()) == 4


def test_a_broken_picture_is_named_with_its_row(rows):
    Path(rows[0].images[0]).write_bytes(b"no picture")
    with pytest.raises(RecordError, match="test.jsonl:1: .*a.png"):
        score_rows(rows, ScriptedCritic, by="x", kept=None, at_once=8)


STEPS = [{"step": step, "score": score} for step, score in zip(PUBLISHED["response"]["steps"], LENGTHS, strict=True)]
RELEASED = [{**STEPS[0], "step": f"### Question:\nHow?\n\n### Solution Process:\n{STEPS[0]['step']}"}, *STEPS[1:]]
MEASURED = [{**step, "num_mc_correct": 1, "num_mc_total": total} for step, total in zip(STEPS, (4, 4, 0), strict=True)]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ({"scores": LENGTHS}, LENGTHS),
        ({"scores": [0.5, None, 1]}, [0.5, None, 1.0]),
        ({"scores": [], "pred": [1, 0, -1]}, [1.0, 0.0, 0.0]),
        ({"pred": [1, -2, 0]}, [1.0, None, 0.0]),
        ({"steps_with_score": STEPS}, LENGTHS),
        ({"steps_with_score": RELEASED}, LENGTHS),
        ({"steps_with_score": MEASURED}, [1.0, 0.3, None]),
    ],
)
def test_lines_of_others(rows, tmp_path, line, wanted):
    file = tmp_path / "scores.jsonl"
    file.write_text(json.dumps(line) + "\n")
    assert read_scores(file, rows[:1], total=1) == {rows[0].key: wanted}


def test_which_row_a_line_is_about(rows, tmp_path):
    file = tmp_path / "scores.jsonl"
    named = [{"id": 2, "scores": [0.2] * 3}, {"row": rows[0].key, "scores": [0.0] * 3}, {"id": 7, "scores": [0.7] * 3}]
    file.write_text("".join(json.dumps(line) + "\n" for line in named))
    assert read_scores(file, rows, total=5) == {rows[2].key: [0.2] * 3, rows[0].key: [0.0] * 3}
    file.write_text("".join(json.dumps({"scores": [i / 10] * 3}) + "\n" for i in range(3)))
    assert list(read_scores(file, rows, total=3).values()) == [[0.0] * 3, [0.1] * 3, [0.2] * 3]
    with pytest.raises(ValueError, match="3 lines of scores for 4 rows, and no row is named: give 'id'"):
        read_scores(file, rows, total=4)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"scores": [0.5, 0.5]}, "2 scores for the 3 steps of line 1"),
        ({"scores": [0.5, 0.5, 3.2]}, "a score must be in 0..1, not 3.2; .* apply sigmoid"),
        ({"scores": [0.5, 0.5, True]}, "a score must be in 0..1, not True"),
        ({"pred": [1, 2, 0]}, "a 'pred' must be 1 for right, 0 or -1 for wrong, not 2"),
        ({"prediction": [1, 1, 1]}, "no scores, pred or steps_with_score: the line has \\['prediction'\\]"),
        ({"steps_with_score": [*STEPS[:2], {**STEPS[2], "step": "So 4."}]}, "step 3 is 'So 4.' here and 'So 3.' in"),
    ],
)
def test_lines_that_do_not_fit(rows, tmp_path, line, reason):
    file = tmp_path / "scores.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(RecordError, match=f"scores.jsonl:1: {reason}"):
        read_scores(file, rows[:1], total=1)
