"""Rows as published, as people keep them, and as they should not be."""

import json

import pytest

from tests.tools.critic_benchmark.conftest import PUBLISHED
from tools.critic_benchmark.rows import NO_SOURCE, read_benchmark

RESPONSE = PUBLISHED["response"]


def test_a_published_row(published):
    [row] = read_benchmark(published({})).rows
    assert (row.steps, row.labels) == (("I see two.", "Hm.", "So 3."), (1, 0, -1))
    assert (row.question, row.source, row.policy) == ("<image1> How many?", "MathVision", "GPT-4o")
    assert (row.number, row.where.line) == (0, 1) and row.images[0].endswith("images/a.png")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"image": "images/a.png"}, id="one_path"),
        pytest.param({"image": None, "images": ["images/a.png"]}, id="images"),
        pytest.param({"response": json.dumps(RESPONSE)}, id="response_as_json"),
        pytest.param({"response": "I see two.\n\nHm.\n\nSo 3.", **RESPONSE}, id="in_the_row"),
    ],
)
def test_what_people_make_of_it_is_the_same(published, change):
    [row] = read_benchmark(published(change)).rows
    assert (row.steps, row.labels) == (("I see two.", "Hm.", "So 3."), (1, 0, -1)) and len(row.images) == 1


def test_rows_without_picture_and_source(published):
    [row] = read_benchmark(published({"image": [], "data_source": None, "policy_model": None})).rows
    assert (row.images, row.source, row.policy) == ((), NO_SOURCE, "")


def test_images_below_another_root(published, tmp_path):
    file = published({"image": ["a.png"]})
    assert read_benchmark(file).unusable[0].fault == "unusable_row"
    [row] = read_benchmark(file, tmp_path / "images").rows
    assert row.images == (str(tmp_path / "images" / "a.png"),)


def test_equal_rows_have_keys_of_their_own_and_others_keep_theirs(published):
    keys = [row.key for row in read_benchmark(published({}, {}, {"answer": "3"})).rows]
    assert len(set(keys)) == 3
    assert [row.key for row in read_benchmark(published({"answer": "3"}, {})).rows] == [keys[2], keys[0]]


def response(**change):
    return {"response": RESPONSE | change}


@pytest.mark.parametrize(
    ("change", "reason", "fault"),
    [
        (response(process_correctness=[1, 0]), "3 steps but 2 judgements", "unequal"),
        (response(process_correctness=[1, 0, 2]), "step 3 is judged 2: write 1 for right", "other_judgement"),
        (response(process_correctness=[1, 0, True]), "step 3 is judged True", "other_judgement"),
        (response(process_correctness=["+", "+", "-"]), "step 1 is judged '\\+'", "other_judgement"),
        (response(process_correctness=None), "'process_correctness' must be a list", "no_judgements"),
        (response(steps=["a", " ", "c"]), "step 2 has no text; leave it out", "empty_step"),
        (response(steps=[]), "'steps' must be a list of texts, not \\[\\]", "no_steps"),
        (response(steps="a"), "'steps' must be a list of texts, not 'a'", "no_steps"),
        ({"response": "I see two."}, "'steps' must be a list of texts, not None", "no_steps"),
        ({"response": "{1"}, "field 'response' is no JSON", "wrong_type"),
        ({"image": ["b.png"]}, "b.png: no such image", "unusable_row"),
        ({"question": ""}, "field 'question' is empty", "empty_question"),
        ({"question": "<image> or <image>?"}, "2 <image>", "unusable_row"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(published, change, reason, fault):
    found = read_benchmark(published({}, change))
    [error] = found.unusable
    assert len(found.rows) == 1 and (error.line, error.fault) == (2, fault)
    with pytest.raises(type(error), match=reason):
        raise error


def test_files_that_are_no_benchmark(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="empty.jsonl: no rows"):
        read_benchmark(tmp_path / "empty.jsonl")
    with pytest.raises(FileNotFoundError, match="none.jsonl: no such file"):
        read_benchmark(tmp_path / "none.jsonl")
