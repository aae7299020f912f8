"""Parts of the validation: what texts are suspicious and what are not, bounds of tokens, kept chunks, the page."""

import ast
import base64
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from internvl_chat.data.images import Tiling
from internvl_chat.data.mixture import open_dataset
from internvl_chat.data.tokenization import RowTokenizer
from internvl_chat.data.video import FrameLimits
from internvl_chat.model import load_tokenizer
from internvl_chat.records.meta import DatasetSpec
from internvl_chat.records.rows import PreferencePair, Source
from tools.pages.pictures import Picture
from tools.validation import thumbnails
from tools.validation.chunks import Chunk, ChunkChecker, ChunkFacts, check_all, read_in_order
from tools.validation.faults import FAULTS, FoundFault
from tools.validation.mixtures import open_mixture
from tools.validation.page import BINS, draw_tokens, validation_page
from tools.validation.rows import RowChecker, most_tokens
from tools.validation.summary import SetSummary, Summary, verdict
from tools.validation.texts import loop_unit, suspicious_texts
from tools.validation.thumbnails import Thumbnails, draw_thumbnails, image_paths

WORDS = "So one word follows another, as in any text that says what it found where, and how. It ends here" * 2
ASKED = 'What is it? Please use the format "Final answer: .."'


def faults(question, chosen, rejected="Something else.\nFinal answer: nine", dataset="x"):
    return [fault for fault, _ in suspicious_texts(PreferencePair((), question, chosen, rejected), dataset)]


@pytest.mark.parametrize(
    ("question", "chosen"),
    [
        (ASKED, "It is 4.\nFinal answer: 4"),
        (f"{ASKED}\nOptions: A. 4\nB. 5", "It is A.\nFinal answer: A"),
        ("Choose the answer: A. cat B. dog", "A cat.\nFinal answer: A"),
        ("What is 2 + 2? The answer is a number.", "It is 4.\nFinal answer: 4"),
        ("请按格式作答，答案: ..\n问题：面积是多少？", "底是4，高是3。\n答案: 6"),
        ("Reply \\boxed{..} please.", "The sum of two and two makes \\boxed{4}"),
        ("Is 4 right?", "Yes"),
        ("Name <ref>the dog</ref>", "<ref>the dog</ref><box>[[1, 2, 3, 4]]</box> a < b"),
        ("Tabs\tand\r\nlines", "fine \u200b text \U0001f600"),
        ("Draw a table", "|---|" * 20 + "\nIt is\nFinal answer: 4"),
    ],
)
def test_nothing_is_suspicious_about(question, chosen):
    assert faults(question, chosen) == []


def test_final_answers_that_agree_are_suspicious_in_correctness_pairs_only():
    texts = ("So it is 4.\nFinal answer: Four", "Hence 5, or 4.\nFinal answer: four.")
    assert faults(ASKED, *texts) == []
    assert faults(ASKED, *texts, dataset="x_pairs_vqa_correctness_rules") == ["same_final_answer"]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("x" * 240, "x"),
        ("Yes. " + "and so on, " * 30, "and so on, "),
        ("and so on, " * 21, None),  # 231 characters
        (" " * 300, None),
        ("".join(map(chr, range(33, 333))), None),
        ("ab" * 150 + "c", None),
        ("0123456789" * 7 * 10, "0123456789"),
    ],
)
def test_loops(text, unit):
    assert loop_unit(text) == unit


@pytest.mark.parametrize("family", ["tiny-qwen2", "tiny-internlm2"])
def test_a_text_never_has_more_tokens_than_the_bound(family, golden_folder):
    rows = RowTokenizer(load_tokenizer(golden_folder / "ckpt" / family), "internvl2_5", 4)
    draw = np.random.default_rng(0)
    strange = [
        "<|im_end|>" * 9,
        "[UNUSED_TOKEN_145]",
        "\ufdfa" * 9,
        "\ufb2c\u1e9b\u0323",
        "é" * 20,
        "１２３",
        "\x00\x07 \u2028",
    ]
    strange += ["".join(map(chr, draw.integers(1, 0xD000, 40))) for _ in range(50)]
    strange += ["".join(map(chr, draw.integers(32, 127, 40))) for _ in range(50)]
    for text in strange:
        assert len(rows.encoder.encode_text(text)) <= most_tokens(text), ascii(text)


@pytest.mark.parametrize("room", range(-3, 4))
def test_a_row_is_too_long_where_its_tokens_are_too_many(room, tokenizer, tmp_path):
    """Also where the bound alone would not tell."""
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "Why?", "chosen": "' + WORDS.encode() + b'", "rejected": "No"}\n')
    rows = RowTokenizer(tokenizer, "internvl2_5", 4)
    length = rows.tokenize("Why?", [WORDS], 0, Source("a", 1)).length(0)
    data = open_dataset(DatasetSpec("a", str(tmp_path), str(tmp_path / "a.jsonl")), 0, "meta.json", cache_dir=tmp_path)
    facts = RowChecker(Tiling(), rows, max_seq_length=length + room, frames=FrameLimits()).check(
        *data.rows[0][:1], Source("a", 1), data
    )
    assert [fault for fault, _ in facts.faults] == (["too_long"] if room < 0 else [])
    assert facts.usable == (room >= 0)


@pytest.fixture
def three_chunks(tmp_path):
    """A checker of 1,100 rows, the last but one of which has an empty answer."""
    lines = [b'{"question": "%d?", "chosen": "yes", "rejected": "no"}\n' % n for n in range(1100)]
    lines[1098] = b'{"question": "?", "chosen": "", "rejected": "no"}\n'
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    data = open_dataset(DatasetSpec("a", "", str(tmp_path / "a.jsonl")), 0, "meta.json", cache_dir=tmp_path)
    return ChunkChecker(RowChecker(Tiling(), None, max_seq_length=9, frames=FrameLimits()), [data])


def test_processes_find_what_one_finds(three_chunks, tmp_path):
    found = []
    for workers in (1, 2):
        done = []
        check_all(three_chunks, tmp_path / f"{workers}.parts", workers, done.append)
        assert sorted(done) == [0, 100, 500, 500]
        found.append([facts.to_line() for facts in read_in_order(tmp_path / f"{workers}.parts")])
    assert found[0] == found[1]
    facts = [*read_in_order(tmp_path / "1.parts")]
    assert [part.chunk for part in facts] == [(0, 0, 500), (0, 500, 1000), (0, 1000, 1100)]
    assert facts[2].faults == [(1099, "empty_answer", "an answer is empty, nothing to learn from it: ''")]
    assert facts[2].columns["line"].tolist() == [*range(1001, 1099), 1100]


def test_torn_and_repeated_chunks(three_chunks, tmp_path):
    """A torn last line is checked again; so are pieces with faults of images, and the last word counts."""
    first = three_chunks(Chunk(0, 0, 500))
    faulty = ChunkFacts(first.chunk, [(1, "image_missing", "gone")], first.columns, Counter(), [])
    part = tmp_path / "a.parts"
    part.write_bytes(three_chunks(Chunk(0, 500, 1000)).to_line() + faulty.to_line() + first.to_line()[:99])
    done = []
    check_all(three_chunks, part, 1, done.append)
    assert done == [500, 500, 100]
    assert [facts.faults for facts in read_in_order(part)][0] == []
    done.clear()
    check_all(three_chunks, part, 1, done.append)
    assert sum(done) == 1100 and len(done) == 1


def test_a_worker_that_dies_names_its_rows(three_chunks, tmp_path):
    class Deadly(ChunkChecker):
        def __call__(self, chunk):
            if chunk.start == 500:
                os._exit(9)
            return super().__call__(chunk)

    deadly = Deadly(three_chunks.checker, three_chunks.datasets)
    with pytest.raises(ChildProcessError, match=r"a worker process died .* a rows 501-1000.*What was checked is kept"):
        check_all(deadly, tmp_path / "a.parts", 2, lambda rows: None)


def test_the_verdict_does_not_praise_rows_beside_data_sets_that_it_could_not_read():
    summary = Summary(sets=[SetSummary("a", "train", 8, 8, usable=8)])
    summary.note(FoundFault("meta_unusable", "my_photos", "meta.json", 0, "x"))
    assert verdict(summary, strict=False, with_tokens=True) == (
        "FAIL: data sets that could not be read: my_photos, all 8 rows of the others can be trained on, 1 error."
    )
    summary.sets.clear()
    assert verdict(summary, strict=False, with_tokens=True) == (
        "FAIL: data sets that could not be read: my_photos, there is no row to check."
    )


@pytest.mark.parametrize(
    ("share", "usable", "faults", "passed"),
    [
        (0.0, (99, 100), {"empty_answer": 1}, False),
        (0.005, (99, 100), {"empty_answer": 1}, True),
        (0.004, (99, 100), {"empty_answer": 1}, False),
        (1.0, (98, 100), {"empty_answer": 1, "image_missing": 1}, True),
        (1.0, (0, 100), {"image_missing": 100}, False),  # a data set of which nothing is left
        (1.0, (100, 100), {"path_missing": 1}, False),  # an error, but of no row
        (1.0, (99, 100), {"empty_answer": 1, "held_out_in_train": 1}, False),
    ],
)
def test_rows_that_training_would_skip_pass_up_to_a_share(share, usable, faults, passed):
    sets = [SetSummary(name, "train", 100, 100, usable=number) for name, number in zip("ab", usable, strict=True)]
    summary = Summary(sets=sets, counts=Counter(faults), unusable=200 - sum(usable))
    assert summary.passed(strict=False, max_skipped_share=share) == passed
    assert not summary.passed(strict=True, max_skipped_share=share)
    text = verdict(summary, strict=False, with_tokens=True, max_skipped_share=share)
    assert text.startswith("PASS" if passed else "FAIL")
    assert (f"Training skips them: --max_skipped_share allows {share:.1%}." in text) == passed


def test_the_verdict_says_what_it_comes_to():
    summary = Summary(sets=[SetSummary("a", "train", 10, 10, usable=10), SetSummary("b", "train", 3, 3)])
    assert verdict(summary, strict=False, with_tokens=True).startswith("PASS: all 13 rows can be trained on.")
    assert "No row of b can be trained on" in verdict(summary, strict=False, with_tokens=True)
    summary.note(FoundFault("garbled_text", "a", "a.jsonl", 3, ""))
    assert verdict(summary, strict=False, with_tokens=True).startswith(
        "PASS: all 13 rows can be trained on, 1 warning."
    )
    assert verdict(summary, strict=True, with_tokens=False).startswith("FAIL: ")
    summary.note(FoundFault("bad_json", "a", "a.jsonl", 4, ""))
    summary.unusable = 1
    text = verdict(summary, strict=False, with_tokens=False)
    assert text.startswith("FAIL: 1 of 13 rows cannot be trained on, 1 error, 1 warning.")
    assert text.endswith("give --model_name_or_path and --max_seq_length.")


def make_report(summary):
    settings = {"meta_path": "m.json"}
    return {"meta_path": "<m>.json", "passed": False, "verdict": "FAIL", **summary.to_json(), "settings": settings}


def test_the_page_escapes_what_rows_say_and_shows_every_fault(tmp_path):
    summary = Summary(sets=[SetSummary("a", "held-out", 1, 1, usable=1, prompts=1, chosen_longer=1.0)], tokens=[3, 9])
    summary.chosen, summary.rejected = [np.array([4, 90])], [np.array([0, 7])]
    for fault in FAULTS:
        summary.note(FoundFault(fault, "a", "a.jsonl", 7, f"<script>{fault}</script>"))
    page = validation_page(make_report(summary), summary, 8192)
    assert "<script>" not in page and page.count("&lt;script&gt;") == len(FAULTS)
    assert all(fault.cure.replace("<", "&lt;").replace(">", "&gt;") in page for fault in FAULTS.values())
    assert page.count("<svg") == 3 and "&lt;m&gt;.json" in page and "a (held-out)" in page


PICTURES = ("a.png", "b.png", "c.png", "cut.png", "gone.png")


@pytest.fixture
def pictured(tmp_path):
    """A data set with a blank line in front: rows of one image each, then rows of several, of none, and of no JSON."""
    for number, name in enumerate(PICTURES[:4]):
        Image.linear_gradient("L").rotate(90 * number).resize((400, 200)).convert("RGB").save(tmp_path / name)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:99])
    rows = [{"question": "?", "chosen": "", "image": name} for name in PICTURES]
    rows += [{"images": ["a.png", "b.png", "c.png"]}, {"question": "?"}, {"image": [4, None, "b.png"]}, {"image": 4}]
    lines = [b"", *(json.dumps(row).encode() for row in rows), b'{"image": "a.png"']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    return open_dataset(DatasetSpec("a", str(tmp_path), str(tmp_path / "a.jsonl")), 0, "meta.json", cache_dir=tmp_path)


def find(data, fault, line, detail=""):
    return FoundFault(fault, "a", data.rows.path, line, detail)


def test_the_images_of_a_row_whatever_else_is_wrong_with_it(pictured):
    several, none = ["a.png", "b.png", "c.png"], []
    named = [image_paths(pictured, line) for line in range(2, 12)]
    assert named == [*([name] for name in PICTURES), several, none, ["b.png"], none, none]


def test_a_few_rows_of_a_fault_have_thumbnails_and_broken_images_words(pictured):
    lines = (0, 2, 2, 8, 5, 6, 3)  # the data set, a.png twice, a row without images, cut.png, gone.png, b.png
    found = [find(pictured, "empty_answer", line) for line in lines]
    found += [FoundFault("empty_answer", "b", pictured.rows.path, 2, "")]
    drawn = draw_thumbnails({"empty_answer": found}, [pictured])
    assert [place for _, place in drawn] == [1, 4, 5]  # ROWS of them
    [[whole], [cut], [gone]] = drawn.values()
    image = Image.open(io.BytesIO(base64.b64decode(whole.uri.partition(",")[2])))
    assert (whole.path, image.size, image.format) == ("a.png", (160, 80), "JPEG")
    assert cut.uri is None and "cut.png" in cut.problem and gone.uri is None and "no such file" in gone.problem
    assert draw_thumbnails({"image_unreachable": [find(pictured, "image_unreachable", 2)]}, [pictured]) == {}


def test_of_a_row_of_several_images_the_faulty_one_is_shown_first(pictured):
    found = find(pictured, "image_flat", 7, f"{pictured.root}/c.png: it decodes to (2, 9, 9)")
    [pictures] = draw_thumbnails({"image_flat": [found]}, [pictured]).values()
    assert [picture.path for picture in pictures] == ["c.png", "a.png"]  # IMAGES of them


def test_when_the_page_has_its_fill_of_pictures_words_stand_in_their_place(pictured, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_CHARACTERS", 1)
    examples = {name: [find(pictured, name, 3)] for name in ("image_flat", "empty_answer")}
    assert [(name, bool(pictures[0].uri)) for (name, _), pictures in draw_thumbnails(examples, [pictured]).items()] == [
        ("empty_answer", True),
        ("image_flat", False),
    ]


def test_the_page_shows_pictures_beside_their_rows(pictured):
    summary = Summary(sets=[SetSummary("a", "train", 9, 9)])
    summary.note(find(pictured, "empty_answer", 2))
    for line, detail in ((5, ""), (6, f"{pictured.root}/gone.png: no such file")):
        summary.note(find(pictured, "image_missing", line, detail))
    summary.note(find(pictured, "bad_json", 11))
    shown = Thumbnails({("empty_answer", 0): [Picture('"<b>.png', uri="data:image/jpeg;base64,AA==")]})
    shown["image_missing", 0] = [Picture("cut.png", problem="cut short")]
    shown["image_missing", 1] = [Picture("gone.png", problem=summary.examples["image_missing"][1].detail)]
    page = validation_page(make_report(summary), summary, 8192, shown)
    [picture] = re.findall("<img [^>]*>", page)
    assert 'src="data:image/jpeg;base64,AA=="' in picture and "&lt;b&gt;.png, an image of line 2" in picture
    assert re.findall("no picture of ([^<]*)<", page) == [
        "cut.png: cut short",
        "gone.png",
    ]  # what is said once is enough
    assert "img-src data:" in page


def test_the_page_of_nothing():
    assert "Nothing was found" in validation_page(make_report(Summary()), Summary(), 8192)


@pytest.mark.parametrize(("tokens", "end"), [([46, 50, 82], 8192), ([46, 9000], 9000)])
def test_rows_that_are_short_beside_the_limit_are_bars_that_can_be_seen(tokens, end):
    axes = Figure().subplots()
    draw_tokens(axes, tokens, 8192)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([end / BINS] * BINS)
    assert sum(bar.get_height() for bar in axes.patches) == len(tokens)


@pytest.mark.integration
def test_chromium_shows_the_page_without_a_request(pictured, tmp_path, browser_page, look_at):
    summary = Summary(sets=[SetSummary("a", "train", 5, 5, usable=5)], tokens=[100, 120, 900])
    summary.chosen, summary.rejected = [np.array([40, 90])], [np.array([50, 7])]
    summary.note(FoundFault("bad_json", "a", "a.jsonl", 7, "torn"))
    for line in (2, 5, 7):
        summary.note(find(pictured, "empty_answer", line, "an answer is empty, nothing to learn from it: ''"))
    drawn = draw_thumbnails(summary.examples, [pictured])
    path = Path(tmp_path / "validation.html")
    path.write_text(validation_page(make_report(summary), summary, 8192, drawn).replace(f"{tmp_path}/", "data/"))
    browser_page.goto(path.as_uri())
    assert browser_page.locator("details[open]").first.inner_text().count("a.jsonl:7: torn") == 1
    images = browser_page.locator("li img").evaluate_all("all => all.map(i => [i.complete && i.naturalWidth, i.alt])")
    assert images == [
        [160, f"{name}.png, an image of line {line}"] for name, line in zip("aab", (2, 7, 7), strict=True)
    ]
    box = browser_page.locator(".plots").bounding_box()
    assert box["width"] > 800 and box["height"] > 150
    assert "max_seq_length" in browser_page.locator(".plots").inner_text()
    assert [url for url in browser_page.requests if not url.startswith(("data:", "file:"))] == []
    look_at(browser_page, "validation")
    assert browser_page.problems == []


def test_every_fault_that_the_library_names_is_known():
    """Else the report of a row that has it would end in a KeyError."""
    named = set()
    for path in (Path(__file__).parents[2] / "internvl_chat").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("ImageError", "RecordError"):
                last = call.args[-1]
                if len(call.args) > 1 and isinstance(last, ast.Constant) and " " not in str(last.value):
                    named.add(last.value)
    assert {"image_unreachable", "too_long", "video_broken"} <= named
    assert named <= set(FAULTS)


def test_a_path_that_leads_to_two_things_is_found(tmp_path, monkeypatch):
    (tmp_path / "there" / "images").mkdir(parents=True)
    (tmp_path / "there" / "a.jsonl").write_text('{"question": "Q", "chosen": "a", "rejected": "b"}\n')
    meta = tmp_path / "there" / "meta.json"
    meta.write_text('{"a": {"root": "images", "annotation": "a.jsonl"}}')
    monkeypatch.chdir(tmp_path)
    assert open_mixture(meta)[1] == []
    (tmp_path / "images").mkdir()
    [data], [found] = open_mixture(meta)
    assert found.fault == "path_doubtful" and "root 'images' is both" in found.detail
    assert Path(data.root) == tmp_path / "there" / "images"  # where the annotation lies
