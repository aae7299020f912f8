"""The page of pairs: sampling, difference marks, escaping; and in a headless Chromium its images and filters."""

import io
import json
import os
from base64 import b64decode
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from internvl_chat.records.rows import VideoClip
from tests.videos import number_of, write_mp4
from tools import view_pairs
from tools.pages.page import mark_differences
from tools.pages.pictures import embed, embed_frames
from tools.view_pairs import sample_rows

REPOSITORY = Path(__file__).parents[2]


def draw(path, heights, size=(600, 260), mode="RGB"):
    """A bar chart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, "white")
    pen = ImageDraw.Draw(image)
    pen.line((40, 20, 40, 220, 560, 220), fill="black", width=2)
    for index, height in enumerate(heights):
        left = 80 + 110 * index
        pen.rectangle((left, 220 - height, left + 60, 219), fill="steelblue")
        pen.text((left + 18, 228), str(2019 + index), fill="black")
    image.save(path)


@pytest.fixture
def pairs(tmp_path):
    """Two data sets of three pairs: wrong answers about charts, a format error among the geometry pairs."""
    draw(tmp_path / "images" / "bars.png", [90, 150, 60, 180])
    draw(tmp_path / "images" / "triangle.png", [40, 80], mode="RGBA")
    question = '<image>\nHow many bars are there? Please use the format "Final answer: .."'
    steps = "The chart shows the years 2019 to 2022.\n\nEach year has one bar, so"
    rows = {
        "charts_pairs_vqa_correctness_rules": [
            {
                "image": "bars.png",
                "question": question,
                "chosen": f"{steps} there are 4 bars.\n\nFinal answer: {4 + 0 * i}",
                "rejected": f"{steps} there are {5 + i} bars.\n\nFinal answer: {5 + i}",
                "answer_gt": "4",
                "chosen_rule": "number",
                "rejected_rule": "number",
                "rejected_verdict": "wrong",
            }
            for i in range(3)
        ],
        "geometry_pairs_vqa_format_rules": [
            {
                "image": ["triangle.png", "gone.png"],
                "question": "<image>\n<image>\n面积是多少？",
                "chosen": "底是4，高是3，所以面积是6。\n答案: 6",
                "rejected": "<script>alert('面积')</script>底是4，高是3。",
            },
            {"question": "2 + 2?", "chosen": "It is 4.\nFinal answer: 4", "rejected": "Four"},
            {"question": "", "chosen": "x", "rejected": "y"},
        ],
    }
    meta = {}
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        meta[name] = {"root": "images", "annotation": f"{name}.jsonl"}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path


def write_page(folder, *more):
    view_pairs.main(["--meta", str(folder / "meta.json"), "--out", str(folder / "pairs.html"), *more])
    return folder / "pairs.html"


def test_words_and_characters_that_differ_are_marked():
    chosen, rejected = mark_differences("The area is 6 cm.", "The area is 12 cm.")
    assert chosen == [("The area is ", False), ("6", True), (" cm.", False)]
    assert [text for text, differs in rejected if differs] == ["12"]
    chosen, rejected = mark_differences("面积是六。", "面积是八。")
    assert chosen == [("面积是", False), ("六", True), ("。", False)]


@pytest.mark.parametrize(("one", "other"), [("", ""), ("a", ""), ("x\n\ny é", "x y é\n"), ("ก้า 3.5%", "__a b__")])
def test_marking_loses_no_character(one, other):
    left, right = mark_differences(one, other)
    assert ("".join(text for text, _ in left), "".join(text for text, _ in right)) == (one, other)


def test_very_long_texts_are_compared_whole():
    one, other = "a " * 5000, "a " * 5000 + "b"
    assert mark_differences(one, other) == ([(one, True)], [(other, True)])
    assert mark_differences(one, one) == ([(one, False)], [(one, False)])


def test_sampling_is_seeded_and_keeps_file_order(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(100)))
    rows, total = sample_rows(path, 10, "0 a")
    assert total == 100 and len(rows) == 10 and rows == sorted(rows)
    assert rows == sample_rows(path, 10, "0 a")[0] != sample_rows(path, 10, "1 a")[0]
    assert all(text == b"%d" % (line - 1) for line, text in rows)
    assert len(sample_rows(path, 1000, "")[0]) == 100


def test_images_are_downscaled_and_bad_ones_say_why(tmp_path):
    draw(tmp_path / "wide.png", [10], size=(2000, 500))
    (tmp_path / "text.png").write_text("no image")
    data = b64decode(embed(str(tmp_path), "wide.png", 400).uri.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (400, 100)
    for path, reason in {
        "text.png": "this is text that begins with 'no image', not a picture",
        "gone.png": "no such file",
        "../a.png": "out of its root",
    }.items():
        assert reason in embed(str(tmp_path), path, 400).problem


def test_the_page_is_one_file_and_escapes_texts(pairs, capsys):
    page = write_page(pairs).read_text()
    assert "&lt;script&gt;" in page and "<script>alert" not in page
    assert "http:" not in page and "https:" not in page and 'src="data:image/jpeg' in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "geometry_pairs_vqa_format_rules.jsonl:3: field 'question' is empty" in capsys.readouterr().out


def test_pair_files_can_be_shown_without_a_meta(pairs):
    out = pairs / "one.html"
    source = pairs / "charts_pairs_vqa_correctness_rules.jsonl"
    view_pairs.main(["--pairs", str(source), "--root", str(pairs / "images"), "--out", str(out), "--number", "2"])
    assert out.read_text().count("<article ") == 2 and "2 of 3 pairs" in out.read_text()


def test_nothing_to_show_and_missing_files_are_errors(pairs):
    with pytest.raises(SystemExit):
        view_pairs.main([])
    (pairs / "charts_pairs_vqa_correctness_rules.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="charts_.*_rules': annotation 'charts.*' is no file at"):
        write_page(pairs)


@pytest.mark.integration
def test_chromium_shows_images_answers_marks_and_filters(pairs, browser_page, look_at):
    path = write_page(pairs)
    browser_page.goto(path.as_uri())
    look_at(browser_page, "pairs")
    articles = browser_page.locator("article")
    assert articles.count() == 5
    images = browser_page.locator("article img")
    assert images.count() == 4
    assert images.evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 0)")
    for article in articles.all():
        assert article.locator(".chosen pre").inner_text() and article.locator(".rejected pre").inner_text()
        assert article.locator(".chosen mark").count() + article.locator(".rejected mark").count() > 0
    first = articles.first
    assert first.locator(".chosen mark").all_inner_texts() == ["4", "4"]
    assert first.locator(".rejected mark").all_inner_texts() == ["5", "5"]
    assert "gone.png: no such file" in browser_page.locator(".missing").inner_text()
    assert [url for url in browser_page.requests if not url.startswith(("data:", "file:"))] == []
    assert browser_page.problems == []


@pytest.mark.integration
def test_chromium_filters_by_data_set_verdict_and_text(pairs, browser_page):
    browser_page.goto(write_page(pairs).as_uri())
    shown, count = browser_page.locator("article:visible"), browser_page.locator("#count")
    assert browser_page.locator("#verdict option").all_inner_texts() == ["any reason", "format_error", "wrong"]
    browser_page.select_option("#dataset", "charts_pairs_vqa_correctness_rules")
    assert shown.count() == 3 and count.inner_text() == "3 of 5 pairs"
    browser_page.select_option("#verdict", "format_error")
    assert shown.count() == 0
    browser_page.select_option("#dataset", "")
    assert shown.count() == 2
    browser_page.fill("#text", "面积")
    assert shown.count() == 1
    browser_page.fill("#text", "")
    browser_page.select_option("#verdict", "")
    assert shown.count() == 5 and count.inner_text() == "5 pairs"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (["wrong", None, 5], "wrong, , 5"),
        (None, "not recorded"),
        ("", "not recorded"),
        (3, "3"),
        ({"a": 1}, "{&#39;a&#39;: 1}"),
    ],
)
def test_fields_of_any_json_type_are_shown(tmp_path, verdict, said):
    """One odd row beside a usual one must not cost the page."""
    fields = {"rejected_verdict": verdict, "chosen_rule": verdict, "answer_gt": verdict}
    rows = [{"question": "Q", "chosen": "a", "rejected": "b", **fields}]
    rows += [{"question": "Q", "chosen": "a", "rejected": "b", "rejected_verdict": "odd"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view_pairs.main(["--pairs", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "pairs.html")])
    page = (tmp_path / "pairs.html").read_text()
    assert f"<span>rejected: {said}</span>" in page and "<span>rejected: odd</span>" in page


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to renew docs/images/view_pairs.png")
def test_screenshot(pairs, browser_page):
    browser_page.goto(write_page(pairs).as_uri())
    browser_page.screenshot(path=REPOSITORY / "docs" / "images" / "view_pairs.png")


def test_of_a_video_four_frames_are_shown_or_why_not(tmp_path):
    write_mp4(tmp_path / "a.mp4", 16)
    pictures = embed_frames(str(tmp_path), VideoClip("a.mp4", None), 64)
    images = [Image.open(io.BytesIO(b64decode(picture.uri.partition(",")[2]))) for picture in pictures]
    assert [number_of(image) for image in images] == [1, 5, 9, 13]
    (missing,) = embed_frames(str(tmp_path), VideoClip("b.mp4", None), 64)
    assert missing.uri is None and "no such file" in missing.problem


def test_the_table_of_rules_shows_what_each_called_correct(tmp_path, capsys):
    rows = [
        {
            "question": "How long?",
            "chosen": "c",
            "rejected": "r",
            "answer_gt": gold,
            "chosen_rule": rule,
            "chosen_answer": answer,
        }
        for rule, answer, gold in [
            ("number", "5 cm", "50 mm"),
            ("number", "5 cm", "50 mm"),
            ("same text", "5", "5"),
            ("spelling", "<b>Cat</b>", "cat"),
        ]
    ]
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"question": "old", "chosen": "c", "rejected": "r"}])
    )
    out = tmp_path / "page.html"
    view_pairs.main(["--pairs", str(tmp_path / "p.jsonl"), "--out", str(out)])
    table = out.read_text().partition('<details id="rules">')[2].partition("</details>")[0]
    assert table.count("50 mm") == 1 and "<td>number</td><td>5 cm</td><td>50 mm</td>" in table
    assert "&lt;b&gt;Cat&lt;/b&gt;" in table and "<b>Cat" not in table
    assert "same text" not in table
    pairs = {
        view.rule: view.samples
        for view in view_pairs.audit([view_pairs.DatasetSpec("p", "", str(tmp_path / "p.jsonl"))], 0)
    }
    assert pairs == {"number": [("5 cm", "50 mm", "How long?")], "spelling": [("<b>Cat</b>", "cat", "How long?")]}
