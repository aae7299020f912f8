"""Held-out questions that are trained on are counted by words and pictures."""

import json

import pytest

from internvl_chat.data.mixture import Mixture
from tools.evaluation.overlap import count_overlap
from tools.evaluation.questions import read_questions, reasoned

PAIR = {"chosen": "It is 2.", "rejected": "It is 3."}


@pytest.fixture
def overlap(tmp_path, golden_folder):
    """Function from training rows and held-out rows to the number of the latter that are trained on."""
    picture = next((golden_folder / "data" / "images").glob("*.png"))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture.read_bytes())

    def count(trained, held_out):
        lines = "".join(json.dumps(row) + "\n" for row in trained)
        (tmp_path / "rows.jsonl").write_text(lines)
        (tmp_path / "meta.json").write_text(json.dumps({"set": {"root": ".", "annotation": "rows.jsonl"}}))
        (tmp_path / "held_out.jsonl").write_text("".join(json.dumps({"answer": "2", **row}) + "\n" for row in held_out))
        questions = list(read_questions([tmp_path / "held_out.jsonl"], reasoned("en")))
        return count_overlap(questions, Mixture.from_meta(tmp_path / "meta.json", cache_dir=tmp_path).datasets)

    return count


def test_words_and_pictures_count_together(overlap):
    trained = [{"image": "a.png", "question": "<image>\nHow many?", **PAIR}]
    held_out = [{"image": name, "question": words} for name in ("a.png", "b.png") for words in ("How many?", "Which?")]
    assert overlap(trained, held_out) == 1


def test_a_question_as_the_pipeline_put_it_is_the_same(overlap):
    put = "Your task is .. Question:\n\nHow much is 1 + 1?"
    assert (
        overlap(
            [{"question": put, "question_orig": "How much is 1 + 1?", **PAIR}], [{"question": "How much is 1 + 1?"}]
        )
        == 1
    )
    assert overlap([{"question": put, **PAIR}], [{"question": "How much is 1 + 1?"}]) == 0


def test_rows_that_training_skips_are_passed_over(overlap):
    assert overlap([{"question": None}, {"question": "Q", **PAIR}], [{"question": "Q"}]) == 1
