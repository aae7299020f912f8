"""Rows of a benchmark in memory, and on a disk."""

import json

import pytest
from PIL import Image

from internvl_chat.records.rows import Source
from tools.critic_benchmark.metrics import ScoredRow
from tools.critic_benchmark.rows import ProcessRow

PUBLISHED = {
    "image": ["images/a.png"],
    "question": "<image1> How many?",
    "answer": "2",
    "response": {"steps": ["I see two.", "Hm.", "So 3."], "process_correctness": [1, 0, -1]},
    "policy_model": "GPT-4o",
    "data_source": "MathVision",
}


@pytest.fixture
def judged():
    """Function from labels and scores of an answer's steps to a row; a key and a question of its own each."""
    made = iter(range(1000))

    def row(labels, scores, source="s1", question=None, pictures=(), **more):
        number = next(made)
        steps = tuple(f"step {i}" for i in range(len(labels)))
        where = Source("bench.jsonl", number + 1)
        question = question or f"question {number}"
        about = (question, (), steps, tuple(labels), source, "", pictures)
        found = ProcessRow(str(number), number, where, *about, **more)
        return ScoredRow(found, scores)

    return row


@pytest.fixture
def hand(judged):
    """Three sources of which every figure can be told by hand at a threshold of 0.85."""
    return [
        judged([1, 1, -1, 0], [0.9, 0.8, 0.9, 0.1]),
        judged([1, -1, -1, -1, -1], [0.9, 0.2, 0.85, 0.1, 0.0], source="s2"),
    ]


@pytest.fixture
def published(tmp_path):
    """Function from what differs from the published row, a dict each, to a benchmark file with its picture."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (56, 56), (200, 30, 30)).save(tmp_path / "images" / "a.png")

    def write(*changes):
        file = tmp_path / "test.jsonl"
        file.write_text("".join(json.dumps(PUBLISHED | change) + "\n" for change in changes))
        return file

    return write
