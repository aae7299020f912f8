"""The page of a critic's figures, and the answers it shows."""

import json
import re

import pytest
from PIL import Image

from tests.tools.critic_benchmark.conftest import PUBLISHED
from tools.critic_benchmark.metrics import ScoredRow, measure
from tools.critic_benchmark.page import critic_page, worst
from tools.critic_benchmark.rows import read_benchmark
from tools.critic_benchmark.table import table


def report_of(rows, **more):
    fixed = {"benchmark": "b.jsonl", "scored": "prm", "threshold": 0.5, "chosen": "given", "rows": len(rows)}
    return {**fixed, "left_out": {}, **measure(rows, 0.5), **more}


def test_the_surest_mistakes_come_first(judged):
    rows = [judged([1, -1], scores) for scores in ([0.9, 0.6], [0.9, 0.99], [0.1, 0.2], [0.9, 0.1])]
    assert [one.scores for one in worst(rows, 0.5, is_right=False)] == [[0.9, 0.99], [0.9, 0.6]]
    assert [one.scores for one in worst(rows, 0.5, is_right=True)] == [[0.1, 0.2]]


def test_the_page_has_the_figures_and_the_answers(published):
    [row] = read_benchmark(published({"question": "<script>alert(1)</script>"})).rows
    rows = [ScoredRow(row, [0.7, 0.8, 0.9])]
    report = report_of(rows, left_out={"empty_step": 2})
    page = critic_page(report, rows, number=3, title="Critic prm")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"http", page) and page.count("data:image/jpeg;base64,") == 1
    for words in ("Critic prm", "2 rows (empty_step)", "MathVision by GPT-4o", "So 3.", "0.900", "test.jsonl:1"):
        assert words in page, words
    assert page.count('class="disagrees"') == 1 and "right ✗" in page
    assert "None." in page  # no right step was taken for wrong


def test_a_step_without_score_and_a_lost_picture_are_shown_as_such(published, tmp_path):
    [row] = read_benchmark(published({})).rows
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    rows = [ScoredRow(row, [None, 0.1, 0.9])]
    page = critic_page(report_of(rows), rows, number=1, title="t")
    assert ">none<" in page.replace("\n", "") and "a.png" in page and "data:image/jpeg" not in page


@pytest.mark.integration
def test_chromium_shows_the_page_on_a_screen_and_on_a_phone(published, hand, tmp_path, browser_page, look_at):
    """With words that no line holds, a wide picture, and all that a figure can be."""
    [row] = read_benchmark(published({"question": "How many? " + 30 * "sidewaysscrolling"})).rows
    Image.new("RGB", (1800, 300), "teal").save(tmp_path / "images" / "a.png")
    rows = [ScoredRow(row, [0.2, None, 0.9]), *hand]
    page = tmp_path / "critic.html"
    page.write_text(critic_page(report_of(rows, left_out={"empty_step": 2}), rows, number=3, title="Critic prm"))
    browser_page.goto(page.as_uri())
    look_at(browser_page, "critic")
    assert browser_page.locator("article").count() > 2
    assert browser_page.requests == [page.as_uri()] and not browser_page.problems


def test_the_table_says_all_readings_and_what_was_left_out(hand):
    text = table(report_of(hand, left_out={"no_score": 3}))
    for words in ("prm on b.jsonl, threshold 0.5 (given)", "s1", "s2", "all steps pooled", "sources by steps"):
        assert words in text, words
    assert "mean of sources" in text and "1 neutral" in text and "left out: 3 no_score" in text
    assert json.dumps(PUBLISHED["response"]["steps"]) not in text
