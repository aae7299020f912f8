"""A threshold is sought on questions of its own."""

import shutil

import pytest

from tools.critic_benchmark.rows import read_benchmark
from tools.critic_benchmark.split import in_part, sweep


def test_a_question_is_on_one_side_with_all_its_answers(judged):
    rows = [judged([1, -1], [0.6, 0.4], question=f"question {i % 50}") for i in range(200)]
    found = sweep(rows, 0.3, seed=0)
    measured = {one.row.question for one in found.rows}
    sought = {one.row.question for one in rows if one not in found.rows}
    assert measured.isdisjoint(sought) and 5 <= len(sought) <= 25
    assert found.threshold == 0.4 and f"{4 * len(sought)} rows (30% of the questions, seed 0)" in found.how
    assert {one.row.key for one in sweep(rows, 0.3, seed=1).rows} != {one.row.key for one in found.rows}


def test_the_measured_rows_have_no_say(judged):
    """Rows that are measured would have wanted another threshold."""
    rows = [judged([1, -1], [0.6, 0.4]) for _ in range(60)]
    changed = [one if in_part(one.row, 0.5, 0) else one._replace(scores=[0.2, 0.1]) for one in rows]
    assert sweep(changed, 0.5, seed=0).threshold == sweep(rows, 0.5, seed=0).threshold == 0.4


def test_the_part_is_the_same_wherever_the_benchmark_lies(published, tmp_path):
    file = published(*({"question": f"<image1> How many? {number}"} for number in range(40)))
    shutil.copytree(tmp_path, other := tmp_path.with_name("elsewhere"))
    parts = [[in_part(row, 0.5, 0) for row in read_benchmark(found).rows] for found in (file, other / file.name)]
    assert parts[0] == parts[1] and 10 < sum(parts[0]) < 30


def test_pictures_tell_questions_of_the_same_words_apart(judged):
    rows = [judged([1], [0.5], question="How many?", pictures=(f"{number}.png",)).row for number in range(40)]
    assert 10 < sum(in_part(row, 0.5, 0) for row in rows) < 30


def test_too_few_rows(judged):
    with pytest.raises(ValueError, match="too few for --threshold sweep; give a number"):
        sweep([judged([1], [0.5])], 0.5, seed=0)
