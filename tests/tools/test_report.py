"""The report of a run: every section from what the run left, what is missing named; and a real run in a browser."""

import io
import json
import math
import os
from pathlib import Path

import pytest
from PIL import Image

from tools.evaluation.run_figures import measure, take, take_notes
from tools.evaluation.table import find_evaluation
from tools.report import SECTIONS, choose_answers, count_skipped, flatten, main

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = Path("work_dirs") / "quickstart" / "mpo"


def entry(step):
    """A log entry whose figures tell the step."""
    names = ("loss", "nll_loss", "losses/sigmoid", "rewards/margins", "rewards/accuracies", "tokens_per_second")
    return {"step": step, **dict.fromkeys(names, 1.0 / step)}


def answer_row(key, outcome, before, image):
    """A row of an answers file."""
    row = {"way": "reasoned", "key": key, "images": [image], "question": f"<b>{key}?</b>", "answer": ["A", "4"]}
    row |= {"responses": [f"It is 4. Final answer: {key}"], "outcomes": [outcome], "majority": {}}
    return row | {"before": {"responses": ["It is 5. Final answer: 5"], "outcomes": [before]}}


@pytest.fixture
def run(tmp_path):
    """What a finished run leaves, and an evaluation beside it."""
    folder = tmp_path / "run"
    folder.mkdir()
    log = [*map(entry, range(1, 11)), {"step": 10, "train_runtime": 5.0, "train_loss": 0.3}]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    settings = {"model": {"drop_path_rate": 0.1}, "training": {"beta": 0.1, "deepspeed": None}}
    settings["mixture"] = {"charts": {"rows": 100, "drawn": 50, "repeat_time": 0.5}}
    (folder / "settings.json").write_text(json.dumps(settings))
    rows = [{"file": "a", "line": k, "reason": "no such file" if k else "<script>"} for k in range(3)]
    (folder / "skipped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    books = {"rows": 100, "repeat_time": 0.5, "used": 98, "skipped": 2, "times_used": {"0": 4, "1": 96}, "faults": {}}
    ledger = {"promised": 100, "used": 98, "skipped": 2, "adds_up": True, "data_sets": {"charts": books}}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    image = str(tmp_path / "a.png")
    answers = [answer_row("a", "wrong", "wrong", image), answer_row("b", "correct", "wrong", image)]
    (tmp_path / "after.answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    accuracy = {"percent": 50.0, "interval": [9.0, 91.0], "questions": 2, "answers": 2, "correct": 1}
    after = {"checkpoint": str(folder), "reasoned": {"all": accuracy | {"format_errors": 0, "undecided": 0}}}
    (tmp_path / "after.json").write_text(json.dumps(after))
    return folder


def page(run, *flags):
    main([str(run), *map(str, flags)])
    return (run / "report.html").read_text()


def test_the_page_tells_what_the_run_left(run):
    text = page(run)
    assert all(f'<h2 id="{name}">' in text for name in SECTIONS)
    assert "10 steps in 5 s" in text and "<td>deepspeed</td><td>null</td>" in text
    assert "<td>charts</td><td>100</td><td>0.5</td>" in text and "<td>50</td><td>98</td><td>2</td>" in text
    assert "<td>0 times: 4, 1 times: 96</td>" in text and "<td>adds_up</td><td>true</td>" in text
    assert "<td>2</td><td>no such file</td>" in text
    assert "50.00 %  [9.00, 91.00]" in text and text.count('src="data:image/') == 4  # two plots, two pictures
    assert "Not in this log" in text and "Peak memory" in text
    assert "&lt;script&gt;" in text and "<script" not in text and "&lt;b&gt;b?&lt;/b&gt;" in text
    assert "http:" not in text and "https:" not in text


def test_what_is_missing_is_named(run):
    for name in ("settings.json", "ledger.json", "skipped.jsonl"):
        (run / name).unlink()
    (run.parent / "after.json").unlink()
    text = page(run)
    for words in ("No evaluation:", "no settings.json with", "no ledger.json", "No answers:", "<p>None.</p>"):
        assert words in text


def test_a_run_that_is_not_finished_is_read_from_its_last_checkpoint(run):
    log = json.dumps({"log_history": [entry(1), entry(2)]})
    for step in (2, 10):
        (run / f"checkpoint-{step}").mkdir()
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text(log.replace('"step": 2', f'"step": {step}'))
    (run / "trainer_state.json").unlink()
    assert "10 steps so far" in page(run)


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such log"):
        main([str(tmp_path)])


def test_an_evaluation_of_another_run_is_not_taken(run, tmp_path):
    assert find_evaluation(run) == tmp_path / "after.json"
    (tmp_path / "after.json").write_text('{"checkpoint": "another"}')
    assert find_evaluation(run) is None


def test_answers_that_changed_come_first():
    rows = {
        key: answer_row(key, *outcomes, "/none.png")
        for key, outcomes in {
            "same": ("correct", "correct"),
            "better": ("correct", "wrong"),
            "worse": ("wrong", "correct"),
            "better2": ("correct", "format_error"),
        }.items()
    }
    shown = choose_answers({"reasoned": rows}, 3)
    assert [view.question for view in shown] == ["<b>better?</b>", "<b>worse?</b>", "<b>better2?</b>"]
    assert shown[0].outcome_before == "wrong" and shown[0].gold == "A or 4"
    assert "no such file" in shown[0].pictures[0].problem


def test_skips_are_counted_by_reason(tmp_path):
    path = tmp_path / "skipped.jsonl"
    path.write_text("".join(json.dumps({"reason": f"r{k}"}) + "\n" for k in [*range(31), 5, 5]))
    found = count_skipped(path)
    assert list(found.items())[0] == ("r5", 3) and found["1 other reasons"] == 1 and sum(found.values()) == 33
    assert flatten({"a": {"b": 1}, "c": [2]}) == [("a.b", "1"), ("c", "[2]")]


def test_figures_of_a_log_by_hand():
    assert take([1.0, 2.0, 3.0], "mean") == 2 and take([1.0] * 10 + [3.0] * 10, "end") == 3
    assert take([2.0] * 10 + [1.0] * 10, "ratio") == 0.5 and take([0.0, 1.0], "ratio") == math.inf
    assert measure([{"step": 1, "rewards/margins": 0.5}]) == {"reward margin, end": 0.5}


@pytest.mark.parametrize(("value", "is_usual"), [(1.5, True), (0.1, True), (2.9, True), (-0.1, False), (3.1, False)])
def test_a_figure_far_from_our_runs_is_marked(value, is_usual):
    [note] = take_notes([{"step": 1, "rewards/margins": value}], {"figures": {"reward margin, end": [1.0, 2.0]}})
    assert note.is_usual is is_usual and note.usual == "1 to 2"
    [unknown] = take_notes([{"step": 1, "rewards/margins": value}], {})
    assert unknown.usual == ""


@pytest.fixture(params=["tiny", "quickstart"])
def real_run(request, monkeypatch):
    """A run made now, and that of the last quickstart."""
    monkeypatch.chdir(REPOSITORY)
    if request.param == "tiny":
        return request.getfixturevalue("tiny_run")
    if not (QUICKSTART / "trainer_state.json").is_file():
        pytest.skip("no work_dirs/quickstart: make quickstart")
    return QUICKSTART


@pytest.mark.integration
def test_chromium_opens_the_report_of_a_real_run(real_run, tmp_path, browser_page):
    out = tmp_path / "report.html"
    main([str(real_run), "--out", str(out)])
    assert out.stat().st_size < 5e6
    browser_page.goto(out.as_uri())
    assert browser_page.locator("h2").evaluate_all("titles => titles.map(t => t.id)") == list(SECTIONS)
    images = browser_page.locator("img")
    assert images.count() >= 2 + 4
    assert images.evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 0)")
    assert browser_page.locator(".absent").all_inner_texts() in ([], ["This run left no ledger.json."])
    assert browser_page.locator("article .correct, article .wrong, article .format_error").count() >= 8
    assert "p = " in browser_page.locator(".verdict").first.inner_text()
    assert browser_page.locator("#curves ~ img").first.evaluate("i => i.naturalHeight > i.naturalWidth")
    assert [url for url in browser_page.requests if not url.startswith(("data:", "file:"))] == []
    assert browser_page.problems == []
    if "SCREENSHOTS" in os.environ:
        shot = Image.open(io.BytesIO(browser_page.screenshot(full_page=True))).convert("RGB")
        shot.quantize(128).save(REPOSITORY / "docs" / "images" / "report.png", optimize=True)
