"""The page that asks several checkpoints: its server without a model, and in headless Chromium with two tiny ones."""

import http.client
import importlib
import io
import json
import os
import random
import socket
import threading
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from internvl_chat.data.images import MAX_PIXELS, Tiling
from internvl_chat.records.rows import Source
from tools import demo
from tools.asking.contenders import Contender, choose_device, load_contender
from tools.asking.examples import read_examples
from tools.asking.server import DemoServer
from tools.asking.showing import marked, show, split_thought
from tools.asking.turns import read_turns
from tools.reasoning_data_pipeline.prompts.wording import ask
from tools.visual_reasoning.questions import ask_anything
from tools.visual_reasoning.scenes import render

REPOSITORY = Path(__file__).parents[2]


class Recorder:
    """Stands for a model: remembers what it is asked."""

    def __init__(self, answer):
        self.answer, self.asked, self.patches = answer, [], []

    def chat(self, tokenizer, tiles, question, settings, history=None, num_patches_list=None):
        told = {name: value for name, value in settings.items() if name != "streamer"}
        self.asked.append((tiles if tiles is None else tuple(tiles.shape), question, told, history))
        self.patches.append(num_patches_list)
        settings["streamer"].on_finalized_text(self.answer)
        return self.answer


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server():
    tiling = Tiling(image_size=56, max_num=3)
    models = [Recorder("<b>four</b>"), Recorder("five")]
    contenders = [Contender(name, model, None, tiling) for name, model in zip(("a<i>", "b"), models, strict=True)]
    with serving(DemoServer(("127.0.0.1", 0), contenders, {"max_new_tokens": 5}, 10_000)) as running:
        yield running


def png(width=100, height=56, colour="steelblue"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def turn(question="How many?", *pictures, version="as typed", **more):
    return {"question": question, "version": version, "images": [b64encode(data).decode() for data in pictures], **more}


def post(server, data, question="How many?", **more):
    pictures = [data] if data else []
    return post_lines(server, {"turns": [turn(question, *pictures, **more)]})[::2]


def post_lines(server, request, **headers):
    """Status, pieces of the answers, last line."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request("POST", "/answers", json.dumps(request), headers)
    response = connection.getresponse()
    *pieces, last = map(json.loads, response.read().splitlines())
    return response.status, pieces, last


def test_every_checkpoint_answers_the_same_question(server):
    assert post(server, png(), "Wie viele? 多少") == (
        200,
        {
            "answers": ["<b>four</b>", "five"],
            "marked": [[["<b>four</b>", True]], [["five", True]]],
            "thoughts": [[], []],
            "verdicts": [],
        },
    )
    for contender in server.contenders:
        assert contender.model.asked == [((3, 3, 56, 56), "<image>\nWie viele? 多少", {"max_new_tokens": 5}, None)]


def test_a_question_is_put_in_the_words_of_a_prompt_version(server):
    for version, status in (("en", 200), ("zh_v2", 200), ("none", 400)):
        assert post(server, png(), version=version)[0] == status
    asked = [question for _, question, _, _ in server.contenders[0].model.asked]
    where = Source("a", 1)
    assert asked == [ask("How many?", 1, version=version, where=where) for version in ("en", "zh_v2")]
    assert asked[0] != "How many?" and "Final answer" in asked[0]


def test_a_conversation_has_the_images_of_all_turns_and_the_own_answers(server):
    first = turn("What?", png(), png(56), answers=["A star.", "A box."], version="en")
    status, pieces, last = post_lines(server, {"turns": [first, turn("And here?", png(30, 30))]})
    assert status == 200 and last["answers"] == ["<b>four</b>", "five"]
    assert pieces == [{"index": 0, "piece": "<b>four</b>"}, {"index": 1, "piece": "five"}]
    words = ask("What?", 2, version="en", where=Source("a", 1))
    for contender, own in zip(server.contenders, first["answers"], strict=True):
        [(tiles, question, _, history)] = contender.model.asked
        assert tiles == (3, 3, 56, 56) and question == "<image>\nAnd here?" and history == [(words, own)]
        assert contender.model.patches == [[1, 1, 1]]  # the tile limit of 3 is shared


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([], "the request must be a JSON dict, not list"),
        ({}, "field 'turns' must be a JSON list, not NoneType"),
        ({"turns": []}, "0 questions in the conversation; from 1 to 16"),
        ({"turns": [turn("a", answers=["b", "c"])] * 17}, "17 questions in the conversation"),
        ({"turns": [turn("a", *[b""] * 5, answers=["b", "c"]), turn("a", *[b""] * 4)]}, "9 images in the conversation"),
        ({"turns": [turn("a", answers=["b"]), turn("c")]}, "needs 2 answers, one per checkpoint"),
        ({"turns": [{**turn("a"), "images": ["*"]}]}, "an image is no base64"),
        ({"turns": ["a"]}, "a turn must be a JSON dict, not str"),
    ],
)
def test_a_request_out_of_bounds_is_refused(server, request_, reason):
    status, pieces, last = post_lines(server, request_)
    assert (status, pieces) == (400, []) and reason in last["problem"]
    assert not server.contenders[0].model.asked


def test_a_thought_is_shown_apart():
    assert split_thought("<think>Two and two.</think>\nFour") == ("Two and two.", "Four")
    assert split_thought("<think>Two and") == ("Two and", "")
    assert split_thought("Four </think>") == ("", "Four </think>")
    assert show(["<think>a</think>b"]) == {"thoughts": [[("a", False)]], "marked": [[("b", False)]]}


def test_what_one_of_two_answers_lacks_is_marked():
    assert marked(["It is 4.", "It is 5."])[0] == [("It is ", False), ("4", True), (".", False)]
    assert marked(["It is 4."]) == [[("It is 4.", False)]]


def test_a_question_without_an_image(server):
    assert post(server, b"")[0] == 200
    assert server.contenders[0].model.asked[0][0] is None


def test_a_file_that_is_no_image_is_refused_with_its_reason(server):
    status, reply = post(server, b"GIF89a and no more")
    assert status == 400 and "the file: cannot be opened as an image" in reply["problem"]
    assert "/" not in reply["problem"]  # nor does anybody learn where it was kept
    status, reply = post(server, png()[:150])
    assert status == 400 and "the file" in reply["problem"]
    assert not server.contenders[0].model.asked


def test_an_image_of_too_many_pixels_is_refused(server, monkeypatch):
    monkeypatch.setattr("internvl_chat.data.images.MAX_PIXELS", 5000)
    status, reply = post(server, png(100, 56))
    assert status == 400 and "100 x 56 pixels; from 1 to 5000 are read" in reply["problem"]
    assert MAX_PIXELS > 5000


def test_an_upload_that_is_too_large_is_refused_unread(server):
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(b"POST /answers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99000000000\r\n\r\n")
        reply = connection.makefile("rb").read()
    assert b" 413 " in reply and b"99000000000 bytes; at most 0.01 MB are taken" in reply


@pytest.mark.parametrize("length", [b"", b"Content-Length: -5\r\n", b"Content-Length: ten\r\n"])
def test_an_upload_of_unknown_length_is_refused(server, length):
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(b"POST /answers HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n")
        assert b" 413 " in connection.makefile("rb").read()


def test_an_upload_that_ends_early(server):
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(b"POST /answers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
        connection.shutdown(socket.SHUT_WR)
        assert b"the upload ended early" in connection.makefile("rb").read()


def test_an_empty_question_and_other_addresses(server):
    assert post(server, png(), " ") == (400, {"problem": "the question is empty"})
    for method, path in (("GET", "/etc/passwd"), ("GET", "/../demo.py"), ("POST", "/")):
        connection = http.client.HTTPConnection(*server.server_address, timeout=20)
        connection.request(method, path, b"")
        assert connection.getresponse().status == 404


@pytest.fixture
def quizzing(tmp_path):
    """A server that offers two examples; the first checkpoint thinks and is right, the other is wrong."""
    Image.new("RGB", (80, 56), "red").save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "question": "How many stars?", "answer": "4"},
        {"image": ["a.png", "a.png"], "question": '<b>Which</b> "one"?', "answer": "the first"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = read_examples(tmp_path / "rows.jsonl", "en_r1")
    texts = {
        "work_dirs/mpo": "<think>I see two rows of two stars each.</think> So \\boxed{4}",
        "ckpt/base": "<think>I see one row of three stars.</think> So \\boxed{3}",
    }
    tiling = Tiling(image_size=56, max_num=3)
    contenders = [Contender(name, Recorder(text), None, tiling) for name, text in texts.items()]
    with serving(DemoServer(("127.0.0.1", 0), contenders, {}, 100_000, version="en", examples=examples)) as running:
        yield running


def test_an_answer_to_an_example_gets_its_verdict(quizzing):
    asked = turn("How many stars?", version="en_r1")
    for number, verdicts in (("0", ["correct", "wrong"]), ("1", []), ("7", []), (None, []), ({}, [])):
        _, _, last = post_lines(quizzing, {"turns": [asked], "example": number})
        assert last["verdicts"] == verdicts
    follow = {"turns": [{**asked, "answers": ["a", "b"]}, asked], "example": "0"}
    assert post_lines(quizzing, follow)[-1]["verdicts"] == []  # it may ask about something else


def test_only_pictures_of_examples_are_sent(quizzing, tmp_path):
    found = {}
    for path in ("/examples/0/0", "/examples/1/1", "/examples/0/1", "/examples/2/0", "/examples/0/../../rows.jsonl"):
        connection = http.client.HTTPConnection(*quizzing.server_address, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        found[path] = response.status, response.read() == (tmp_path / "a.png").read_bytes()
    assert list(found.values()) == [(200, True), (200, True), (404, False), (404, False), (404, False)]


def test_a_request_under_another_name_is_refused(server):
    """As a page of the web would send it whose name leads to this machine."""
    status = {}
    for host in ("localhost", "127.0.0.1:80", "evil.example"):
        connection = http.client.HTTPConnection(*server.server_address, timeout=20)
        connection.request("POST", "/answers", json.dumps({"turns": [turn()]}), {"Host": host})
        with connection.getresponse() as response:
            status[host] = response.status
            response.read()  # the model is asked behind the status
    assert status == {"localhost": 200, "127.0.0.1:80": 200, "evil.example": 421}
    assert len(server.contenders[0].model.asked) == 2


def test_the_page_escapes_names_and_asks_nobody_else(server):
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    connection.request("GET", "/")
    response = connection.getresponse()
    page = response.read().decode()
    assert "a&lt;i&gt;" in page and "a<i>" not in page and "http" not in page
    assert "default-src 'none'" in response.getheader("Content-Security-Policy")


def test_it_serves_this_machine_only_unless_told(capsys):
    args = demo.parse_arguments(["--checkpoints", "a", "b"])
    assert args.host == "127.0.0.1" and args.checkpoints == ["a", "b"]
    with pytest.raises(SystemExit):
        demo.parse_arguments([])


def test_the_device_is_a_gpu_where_there_is_one(monkeypatch):
    assert demo.parse_arguments(["--checkpoints", "a"]).device == "auto"
    for is_seen, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=is_seen: seen)
        assert choose_device("auto") == found and choose_device("cpu") == "cpu"
    assert choose_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda:1: no GPU is seen here"):
        choose_device("cuda:1")


def test_a_loaded_checkpoint_answers_as_chat_does():
    folder = REPOSITORY / "ckpt" / "tiny-base"
    contender = load_contender(str(folder), "cpu")
    image, settings = Image.new("RGB", (120, 56), "red"), {"max_new_tokens": 6, "do_sample": False}
    [grid] = contender.tiling.plan([image.size])
    tiles = torch.from_numpy(contender.tiling.cut(image, grid))
    assert len(tiles) == 1
    expected = contender.model.chat(contender.tokenizer, tiles, "How many?", settings)
    turns, pieces = read_turns({"turns": [turn("How many?", png(120, 56, "red"))]}, 1), []
    assert contender.answer(turns, [], settings, pieces.append) == expected != ""
    assert "".join(pieces).strip() == expected
    longer, pieces = read_turns({"turns": [turn("How many?", png(120, 56, "red"), version="en")]}, 1), []
    answer = contender.answer(longer, [], {**settings, "max_new_tokens": 24}, pieces.append)
    assert "".join(pieces).strip() == answer and len(pieces) > 1
    assert contender.model.chat(contender.tokenizer, None, "a", settings, [("b", "c")]) == contender.answer(
        read_turns({"turns": [turn("b", answers=["c"]), turn("a")]}, 1), [("b", "c")], settings
    )


@pytest.mark.parametrize("engine", ["transformers", "server"])
def test_an_engine_answers_as_chat_does_or_as_its_server(engine, golden_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    folder = golden_folder / "ckpt" / "tiny-qwen2"
    running = importlib.import_module("fake_server").FakeServer(folder).start()
    flags = ["--checkpoints", str(folder), "--engine", engine, "--port", "0", "--max-new-tokens", "6"]
    flags += ["--server", running.url] if engine == "server" else []
    with demo.build_server(demo.parse_arguments(flags)) as server:
        turns = read_turns({"turns": [turn("How many?", png())]}, 1)
        [found] = server.answers(turns)
        with pytest.raises(ValueError, match="2 <image> in the question for 1 images"):
            read_turns({"turns": [turn("<image> <image>", png())]}, 1)
        with pytest.raises(ValueError, match="a conversation needs --engine chat"):
            server.answers([replace(turns[0], answers=("a",)), *turns])
        assert "Follow up" not in server.page
        server.contenders[0].engine.close()
    running.stop()
    if engine == "server":
        assert found in "Look at part 0123456" and running.asked[-1]["max_tokens"] == 6
        return
    chatting = load_contender(str(folder), "cpu")
    assert found == chatting.answer(turns, [], {"max_new_tokens": 6, "do_sample": False}) != ""


@pytest.mark.integration
def test_chromium_takes_an_image_and_shows_two_answers(browser_page, golden, tmp_path, look_at):
    flags = ["--checkpoints", str(REPOSITORY / "ckpt" / "tiny-base"), golden.ckpt_policy, "--port", "0"]
    (tmp_path / "not an image.png").write_text("hello")
    (tmp_path / "image.png").write_bytes(png())
    with serving(demo.build_server(demo.parse_arguments([*flags, "--max-new-tokens", "8"]))) as running:
        page = browser_page
        page.goto(f"http://127.0.0.1:{running.server_address[1]}/")
        answers = page.locator("#now .answer")
        page.fill("#question", "How many stars are there?")
        page.set_input_files("#file", tmp_path / "image.png")
        page.locator("#previews img").wait_for(state="visible")
        page.click("#ask")
        page.locator("#ask:enabled").wait_for()
        asked = turn("How many stars are there?", png(), version="en")
        expected = running.answers(read_turns({"turns": [asked]}, 2))  # as the page asks at first
        assert answers.all_text_contents() == expected and expected[0] != expected[1]
        assert page.problems == []
        page.evaluate("document.querySelectorAll('h2').forEach(h => h.textContent = h.textContent.split('/').pop())")
        look_at(page, "demo")
        page.set_input_files("#file", tmp_path / "not an image.png")
        page.click("#ask")
        page.locator("#ask:enabled").wait_for()
        assert "cannot be opened as an image" in page.locator("#problem").inner_text()
        assert answers.all_text_contents() == ["", ""]


@pytest.mark.integration
def test_chromium_asks_an_example_and_follows_up(browser_page, quizzing, look_at):
    page = browser_page
    page.goto(f"http://127.0.0.1:{quizzing.server_address[1]}/")
    page.select_option("#example", "1")
    page.locator("#previews img").nth(1).wait_for()
    assert page.input_value("#question") == '<b>Which</b> "one"?'
    page.select_option("#example", "0")
    page.locator("#previews img").wait_for()  # one alone
    assert page.input_value("#version") == "en_r1" and page.locator("#gold").inner_text() == "Right answer: 4"
    page.click("#ask")
    page.locator("#follow:enabled").wait_for()
    assert page.locator("#now .verdict").all_text_contents() == ["correct", "wrong"]
    assert page.locator("#now .thought pre").first.text_content() == "I see two rows of two stars each."
    assert not page.locator("#now .thought pre").first.is_visible()
    assert page.locator("#now .answer mark").all_text_contents() == ["4", "3"]
    look_at(page, "demo_example")
    page.fill("#question", "And how many boxes?")
    assert page.locator("#gold").inner_text() == ""  # that of another question
    page.click("#follow")
    page.locator("#follow:enabled").wait_for()
    assert page.locator("#earlier summary").first.text_content() == "How many stars?"
    assert page.locator("#now .verdict:visible").count() == 0
    (tiles, question, _, history) = quizzing.contenders[0].model.asked[-1]
    assert len(tiles) == 4 and question.startswith("And how many boxes?") and len(history) == 1
    look_at(page, "demo_follow_up")
    page.fill("#question", "How many stars?")
    assert page.locator("#gold").inner_text() == "Right answer: 4"
    page.click("#ask")  # begins anew, with the image
    page.locator("#follow:enabled").wait_for()
    assert page.locator("#earlier *").count() == 0
    assert quizzing.contenders[0].model.asked[-1][3] is None
    assert page.problems == []


@pytest.mark.integration
@pytest.mark.skipif("DEMO_CHECKPOINT" not in os.environ, reason="DEMO_CHECKPOINT=FOLDER renews docs/images/demo.png")
def test_screenshot(browser_page, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    rng = random.Random(5)  # a question that the two answer differently
    question = ask_anything(rng)
    render(question.scene, rng).save(tmp_path / "image.png")
    flags = ["--checkpoints", "ckpt/tiny-base", os.environ["DEMO_CHECKPOINT"], "--port", "0", "--max-new-tokens", "120"]
    with serving(demo.build_server(demo.parse_arguments(flags))) as running:
        browser_page.set_viewport_size({"width": 1100, "height": 620})
        browser_page.goto(f"http://127.0.0.1:{running.server_address[1]}/")
        browser_page.fill("#question", question.text)
        browser_page.set_input_files("#file", tmp_path / "image.png")
        browser_page.click("#ask")
        browser_page.locator("#ask:enabled").wait_for()
        browser_page.screenshot(path=REPOSITORY / "docs" / "images" / "demo.png")
