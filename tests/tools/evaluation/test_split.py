"""Held-out questions: chosen by a stable hash, a picture on one side only, rows that every later stage can read."""

import json

import pytest
from PIL import Image

from tools.evaluation.questions import direct, read_questions
from tools.evaluation.split import is_held_out, parse_arguments, split


@pytest.fixture
def files(tmp_path):
    """Two files of 60 questions about 30 pictures, and 20 without a picture."""
    (tmp_path / "images").mkdir()
    for index in range(30):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
    seen = [{"image": f"images/{k % 30}.png", "question": f"How many {k}?", "answer": str(k)} for k in range(60)]
    text = [{"question": f"{k} + 1?", "answer": k + 1, "choices": [k, k + 1]} for k in range(20)]
    for name, rows in (("a_en_prompts.jsonl", seen), ("b.jsonl", text)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [tmp_path / "a_en_prompts.jsonl", tmp_path / "b.jsonl"]


def run(files, out, *flags):
    split(parse_arguments(["--prompts", *map(str, files), "--out", str(out), *map(str, flags)]))
    return {
        (side.name, file.name): [json.loads(line) for line in file.read_text().splitlines()]
        for side in (out / "train", out / "held_out")
        for file in side.iterdir()
    }


def test_every_row_is_on_one_side_and_a_picture_too(files, tmp_path):
    found = run(files, tmp_path / "out", "--share", "0.3")
    name = "a_en_prompts.jsonl"
    pictures = [{row["image"] for row in found[side, name]} for side in ("train", "held_out")]
    assert pictures[0] | pictures[1] == {f"{k}.png" for k in range(30)} and not pictures[0] & pictures[1]
    assert len(found["train", name]) + len(found["held_out", name]) == 60
    assert len(pictures[1]) in range(4, 15)  # 9 in the mean
    assert (tmp_path / "out" / "image_root").read_text() == str(tmp_path / "images")


def test_the_split_is_the_same_in_every_run_and_for_more_rows(files, tmp_path):
    first = run(files, tmp_path / "first")
    assert run(files, tmp_path / "again") == first
    files[1].write_text(files[1].read_text() + json.dumps({"question": "new?", "answer": 1}) + "\n")
    longer = run(files, tmp_path / "longer")
    assert [row for row in longer["held_out", "b.jsonl"] if row["question"] != "new?"] == first["held_out", "b.jsonl"]


def test_a_hash_holds_out_the_share():
    assert 900 < sum(is_held_out(f"picture {k}", 0.1) for k in range(10_000)) < 1100


def test_options_are_put_into_the_question(files, tmp_path):
    row = run(files, tmp_path / "out")["train", "b.jsonl"][0]
    assert row == {"question": "0 + 1?\nA. 0\nB. 1", "answer": ["B", "1"]}
    question = next(read_questions([tmp_path / "out" / "train" / "b.jsonl"], direct))
    assert (question.text, question.gold) == (row["question"], row["answer"])


def test_given_questions_are_held_out_whole_and_not_trained_on(files, tmp_path, capsys):
    rows = [{"image": "images/3.png", "question": "Other?", "answer": "1"}, {"question": "x", "answer": "y"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run(files, tmp_path / "out", "--held-out", tmp_path / "mine.jsonl")
    assert len(found["held_out", "mine.jsonl"]) == 2
    assert "3.png" not in {row["image"] for row in found["train", "a_en_prompts.jsonl"]}
    assert "78 questions to train on, 2 held out; 2 about the same" in capsys.readouterr().out


def test_a_side_without_rows_and_files_of_one_name_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="no row is left for held_out"):
        run(files[1:], tmp_path / "out", "--share", "0.001")
    with pytest.raises(ValueError, match="two files of one name"):
        run([files[0], files[0]], tmp_path / "out")
    with pytest.raises(ValueError, match="--share 1.0"):
        run(files, tmp_path / "out", "--share", "1")
