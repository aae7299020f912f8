"""The report of a run: every section from what the run left, what is missing named; and a real run in a browser."""

import http.client
import json
import math
import os
import re
import threading
from pathlib import Path

import pytest
from PIL import Image

from tools.evaluation.run_figures import measure, model_shape, take, take_notes
from tools.evaluation.table import find_evaluation
from tools.report import main
from tools.run_report.answers import choose_answers
from tools.run_report.figures import count_skipped, flatten
from tools.run_report.live import LivePage
from tools.run_report.page import SECTIONS, PageOptions

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
    cells = re.sub(r"<td[^>]*>", "<td>", text)
    assert "<td>charts</td><td>100</td><td>0.5</td><td>50</td><td>98</td><td>2</td>" in cells
    assert "<td>0 times: 4, 1 times: 96</td>" in cells and "<td>adds_up</td><td>true</td>" in text
    assert "<td>2</td><td>no such file</td>" in text
    assert "<td>50.00</td><td></td><td>9.00 to 91.00</td><td>1 of 2 right</td>" in cells
    assert text.count('src="data:image/') == 4 + 1 + 2  # a picture per panel, accuracies, two of questions
    assert "Not in this log" in text and "Peak memory" in text
    assert "&lt;script&gt;" in text and "<script" not in text and "&lt;b&gt;b?&lt;/b&gt;" in text
    assert "http:" not in text and "https:" not in text


def test_what_is_missing_is_named(run):
    for name in ("settings.json", "ledger.json", "skipped.jsonl"):
        (run / name).unlink()
    (run.parent / "after.json").unlink()
    text = page(run)
    for words in (
        "No evaluation:",
        "no settings.json with",
        "no ledger.json",
        "No answers:",
        "<p>None.</p>",
        "no provenance.json",
    ):
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
    choice = choose_answers({"reasoned": rows}, 3)
    shown = choice.views
    assert [view.question for view in shown] == ["<b>better?</b>", "<b>worse?</b>", "<b>same?</b>"]
    assert shown[0].outcome_before == "wrong" and shown[0].gold == "A or 4"
    assert "no such file" in shown[0].pictures[0].problem
    counts = "1 of 2 that became right, 1 of 1 that are no longer right, and 1 of 1 that are as before"
    assert choice.told == f"Shown are {counts}."


def test_where_nothing_was_lost_half_of_the_answers_are_gains():
    outcomes = {"a": "wrong", "b": "wrong", "c": "wrong", "d": "correct", "e": "correct"}
    rows = {key: answer_row(key, "correct", before, "/none.png") for key, before in outcomes.items()}
    assert [view.kind for view in choose_answers({"direct": rows}, 4).views] == ["became right"] * 2 + ["as before"] * 2
    assert choose_answers({}, 4).views == []


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


def test_every_figure_of_the_log_is_the_logs(run):
    rows = re.findall(r'<tr data-curve="([^"]+)">(.*?)</tr>', page(run), re.DOTALL)
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert {name for name, _ in rows} == set(log[0]) - {"step"}
    for name, cells in rows:
        values = {entry["step"]: entry[name] for entry in log if name in entry}
        shown = re.findall(r"<span>([^<]+)</span> \((\d+)\)", cells)
        assert len(shown) == 4
        assert all(text == f"{values[int(step)]:.6g}" for text, step in shown)
        steps = [int(step) for _, step in shown]
        assert steps[0] == 1 and steps[3] == 10
        assert values[steps[1]] == min(values.values()) and values[steps[2]] == max(values.values())


def test_a_fault_shows_with_its_reason_and_its_cure_and_once(run):
    log = [entry(step) | {"learning_rate": 0.0} for step in range(1, 31)]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    text = page(run)
    [row] = re.findall(r'<tr class="rule look-row">(?:(?!</tr>).)*The learning rate is on.*?</tr>', text, re.DOTALL)
    assert (
        "✗ fault" in row and "0 in 28 of 28 entries" in row and "nothing is learned" in row and "--learning_rate" in row
    )
    assert text.count("rules show a fault") == 1


def test_a_run_of_adapters_on_photographs_shows_no_red_row(tmp_path):
    """Its lengths, losses and rewards are those of its data: no reason to look."""
    kept = json.loads((Path(__file__).parent / "run_logs" / "photos_lora.json").read_text())
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": kept["log_history"]}))
    (tmp_path / "settings.json").write_text(json.dumps(kept["settings"]))
    text = page(tmp_path)
    assert 'class="rule normal-row"' in text and "look-row" not in text and 'class="sign look"' not in text
    assert "rules shows a fault" in text and "Not comparable with our runs" in text


def test_runs_of_another_model_are_not_compared_with_ours(run):
    assert "Not comparable with our runs: model unknown" in page(run)
    (run / "config.json").write_text((REPOSITORY / "ckpt" / "tiny-base" / "config.json").read_text())
    assert model_shape(run) == "Qwen2ForCausalLM, 3 x 128 and 2 x 96"
    text = page(run)
    [table] = re.findall(r'<table class="stack" id="ours">.*?</table>', text, re.DOTALL)
    assert "outside" in table and 'class="look' not in table and 'class="normal' not in table  # no verdict, no colour
    (run / "adapter").mkdir()
    assert model_shape(run).endswith(", adapters") and "Not comparable" in page(run)


def test_how_a_run_was_made_is_told(run):
    start = {
        "command": "python -m <x>",
        "commit": "abc with changes",
        "machine": "8 cores",
        "seconds": {"training": 61.5},
    }
    (run / "provenance.json").write_text(json.dumps({"starts": [start | {"versions": ["torch 2"], "processes": 2}]}))
    text = page(run)
    for words in ("python -m &lt;x&gt;", "abc with changes", "8 cores; 2 processes", "torch 2", "0:01:02 (61.5 s)"):
        assert words in text


def ask(server, path, host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    return response.status, response.read().decode(), response.headers


@pytest.fixture
def live(run):
    with LivePage(run, PageOptions(is_live=True), ("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_live_page_follows_the_log(run, live):
    status, first, headers = ask(live, "/")
    assert status == 200 and "10 steps in 5 s" in first and "default-src 'none'" in headers["Content-Security-Policy"]
    seen = ask(live, "/fingerprint")[1]
    assert f'"{seen}"' in first and ask(live, "/fingerprint")[1] == seen
    lines = [entry(step) for step in range(1, 14)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    newer = (run / "trainer_state.json").stat().st_mtime_ns + 10**9
    os.utime(run / "log.jsonl", ns=(newer, newer))
    assert ask(live, "/fingerprint")[1] != seen
    assert "13 steps so far" in ask(live, "/")[1]


def test_the_live_page_is_for_those_who_name_this_machine(live):
    port = live.server_address[1]
    for host in (f"127.0.0.1:{port}", "localhost:9", "[::1]:80", "10.0.0.7"):
        assert ask(live, "/fingerprint", host)[0] == 200
    for host in ("evil.example", f"rebound.example:{port}", "localhost.evil.example", "[bad"):
        assert ask(live, "/fingerprint", host)[0] == 421
    assert ask(live, "/etc/passwd")[0] == 404


def test_a_run_without_a_log_yet_is_waited_for(tmp_path):
    with LivePage(tmp_path, PageOptions(is_live=True), ("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        status, text, _ = ask(server, "/")
        server.shutdown()
        thread.join()
    assert status == 503 and "no such log" in text
    with pytest.raises(FileNotFoundError, match="name the output folder"):
        main([str(tmp_path / "absent"), "--live"])


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
def test_chromium_shows_the_report_of_a_real_run(real_run, tmp_path, browser_page, look_at):
    out = tmp_path / "report.html"
    main([str(real_run), "--out", str(out), "--title", "Run of the quickstart"])
    assert out.stat().st_size < 5e6
    out.write_text(
        re.sub(r"(?<![\w.])/[\w/.-]+/(tiny-base|mpo)\b", r"work_dirs/\1", out.read_text())
    )  # as a user's folders read
    browser_page.goto(out.as_uri())
    assert browser_page.locator("h2").evaluate_all("titles => titles.map(t => t.id)") == list(SECTIONS)
    images = browser_page.locator("img")
    assert images.evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    assert browser_page.locator(".curves img").count() >= 8
    assert browser_page.locator("article .correct, article .wrong, article .format_error").count() >= 8
    assert "p = " in browser_page.locator(".verdict").first.inner_text()
    assert [url for url in browser_page.requests if not url.startswith(("data:", "file:"))] == []
    look_at(browser_page, "report")
    assert browser_page.problems == []


@pytest.mark.integration
def test_chromium_follows_a_run(run, live, browser_page, look_at):
    browser_page.clock.install()
    browser_page.goto(f"http://127.0.0.1:{live.server_address[1]}/")
    browser_page.locator("#settings-model summary").click()
    lines = [entry(step) for step in range(1, 14)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    newer = (run / "trainer_state.json").stat().st_mtime_ns + 10**9
    os.utime(run / "log.jsonl", ns=(newer, newer))
    browser_page.clock.run_for(4000)
    browser_page.get_by_text("13 steps so far").wait_for()
    assert browser_page.locator("#settings-model[open]").count() == 0  # what was folded stays folded
    as_a_user_s = "folder => { page.innerHTML = page.innerHTML.replaceAll(folder, 'work_dirs/mpo'); scrollTo(0, 0); }"
    browser_page.evaluate(as_a_user_s, str(run))
    look_at(browser_page, "live")
    assert browser_page.problems == []
