"""Curation by hand: what is the same question, the same picture, a leak; what each filter keeps."""

import itertools
import json
import random
from importlib import import_module
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw

from internvl_chat.data.mixture import open_dataset
from internvl_chat.records.meta import DatasetSpec, read_meta
from tests.door import end_of
from tools import curate
from tools.curation import likeness
from tools.curation.balance import allowed_majority
from tools.curation.difficulty import asked_key
from tools.curation.likeness import VIEWS, candidates, same_picture, view_hashes
from tools.curation.questions import band_keys, is_slip, same_question, word_grams, words

ROOT = Path(__file__).parents[3]
LONG = "Which of the coloured shapes that are shown in the upper half of this picture has the largest area of all 7?"


def scene(seed, size=(200, 150)):
    chance, image = random.Random(seed), Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(7):
        left, top = chance.randint(0, size[0] - 50), chance.randint(0, size[1] - 50)
        draw.ellipse((left, top, left + chance.randint(20, 50), top + 40), fill=chance.choice(["red", "navy", "green"]))
    return image


@pytest.fixture
def curated(tmp_path):
    """Function from pairs, flags and evaluation rows to {line that left: (filter, as which row, or a detail)}."""
    (tmp_path / "images").mkdir()

    def run(rows, *flags, held_out=None):
        lines = [{"chosen": f"yes {n}", "rejected": f"no {n}", **row} for n, row in enumerate(rows)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        (tmp_path / "meta.json").write_text(json.dumps({"set/a": {"root": "images", "annotation": "pairs.jsonl"}}))
        if held_out:
            (tmp_path / "held_out.jsonl").write_text(
                "".join(json.dumps({"answer": "1", **row}) + "\n" for row in held_out)
            )
            flags = [
                *flags,
                "--held_out",
                str(tmp_path / "held_out.jsonl"),
                "--held_out_image_root",
                str(tmp_path / "images"),
            ]
        out = tmp_path / "out"
        curate.main(["--meta_path", str(tmp_path / "meta.json"), "--out", str(out), "--num_workers", "1", *flags])
        left = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
        [spec] = read_meta(out / "meta.json")
        assert spec.length == len(open_dataset(spec, 0, out / "meta.json").rows) == len(rows) - len(left)
        return {row["line"]: (row["filter"], row.get("as") or row.get("detail")) for row in left}

    run.images = tmp_path / "images"
    return run


def test_words_are_what_spelling_leaves():
    assert words("<image>\nHOW  many Café-tables, e.g. 3.5?") == ["how", "many", "cafe", "tables", "e", "g", "3.5"]
    assert words("图里有3个圆") == ["图", "里", "有", "3", "个", "圆"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What colour is the circle?", "what color is the  CIRCLE", True),
        ("What is the area of triangle ABC?", "What is teh area of the trianlge ABC", True),
        ("What is the lenght of the corridor?", "What is the length of the corridor?", True),
        ("How many circles are there?", "Howmany circles are there?", True),
        ("What is 3 + 4?", "What is 3 + 5?", False),
        ("Find the value of x.", "Find the value of y.", False),
        ("Which one is larger?", "Which one is smaller?", False),
        ("Does it increase?", "Does it decrease?", False),
        ("Is the left ball heavier?", "Is the right ball heavier?", False),
        ("Is it 4 or 5?", "Is it 5 or 4?", False),
    ],
)
def test_same_questions_and_others(one, other, same):
    assert same_question(words(one), words(other)) is same
    if same:
        first, second = band_keys([words(one), words(other)])
        assert len(np.intersect1d(first, second)) > 0


def test_slips_of_the_pen():
    assert is_slip("centre", "center") and is_slip("colour", "colro") and is_slip("texture", "tetxrue")
    assert not is_slip("max", "min") and not is_slip("east", "west") and not is_slip("include", "exclude")


def test_thirteen_words_make_a_gram():
    assert len(word_grams(["w"] * 12)) == 0 and len(word_grams([str(n) for n in range(15)])) == 3


def test_the_first_view_is_imagehashs_phash(tmp_path):
    scene(1).save(tmp_path / "a.png")
    hashes = view_hashes(str(tmp_path / "a.png"))
    squeezed = scene(1).convert("L").resize((128, 128), Image.Resampling.BOX)
    assert len(hashes) == len(VIEWS) == 16 and f"{hashes[0]:016x}" == str(imagehash.phash(squeezed))


@pytest.mark.parametrize("change", ["jpeg", "half", "double", "cropped", "corner"])
def test_pictures_that_are_the_same(tmp_path, change):
    image = scene(3, (400, 300))
    image.save(tmp_path / "a.png")
    width, height = image.size
    changed = {
        "jpeg": image,
        "half": image.resize((width // 2, height // 2)),
        "double": image.resize((width * 2, height * 2)),
        "cropped": image.crop((20, 15, width - 20, height - 15)),
        "corner": image.crop((12, 0, width, height - 9)),
    }[change]
    changed.save(tmp_path / "b.jpg", quality=60)
    paths = [str(tmp_path / name) for name in ("a.png", "b.jpg")]
    one, other = (view_hashes(path)[None] for path in paths)
    assert list(candidates(one, other)) == [(0, 0)] == list(candidates(other, one))
    assert same_picture(*paths)


def test_pictures_that_only_look_alike(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        scene(seed).save(tmp_path / f"{name}.png")
    chart = Image.new("RGB", (200, 150), "white")
    for bar in range(6):
        ImageDraw.Draw(chart).rectangle((10 + 30 * bar, 60, 30 + 30 * bar, 140), fill="navy")
    chart.save(tmp_path / "c.png")
    ImageDraw.Draw(chart).rectangle((70, 60, 90, 100), fill="white")  # one bar is half as high
    chart.save(tmp_path / "d.png")
    Image.new("RGB", (200, 150), "white").save(tmp_path / "e.png")
    Image.new("RGB", (200, 150), "white").save(tmp_path / "f.png")
    for one, other in ("ab", "cd", "ef"):
        assert not same_picture(str(tmp_path / f"{one}.png"), str(tmp_path / f"{other}.png"))


def test_most_pictures_that_look_alike_are_not_laid_over_each_other(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{seed}.png") for seed in range(6)]
    for seed, path in enumerate(paths):
        scene(seed).save(path)
    laid = []
    monkeypatch.setattr(likeness, "_overlay", lambda square, cuts, target: laid.append(cuts) or 0.0)
    assert not any(same_picture(*pair) for pair in itertools.combinations(paths, 2))
    assert not laid
    assert not same_picture(paths[0], paths[0]) and laid  # what may be the same is looked at


def test_near_duplicates_need_question_and_picture(curated):
    scene(1).save(curated.images / "a.png")
    scene(1).save(curated.images / "a.jpg", quality=50)
    scene(2).save(curated.images / "b.png")
    rows = [
        {"image": "a.png", "question": LONG},
        {"image": "a.png", "question": LONG},  # another pair of the prompt
        {"image": "a.jpg", "question": LONG.upper().replace("AREA", "AERA")},  # the prompt again
        {"image": "b.png", "question": LONG},  # another picture
        {"image": "a.png", "question": LONG.replace("7", "8")},  # another question
        {"question": LONG},
        {"question": "  " + LONG},
        {"image": ["a.png", "b.png"], "question": LONG},
        {"image": ["a.jpg", "b.png"], "question": LONG},
        {"image": ["b.png", "a.png"], "question": LONG},  # another order
        {"image": "b.png", "question": LONG, "chosen": "yes 3", "rejected": "no 3"},  # row 4 again
    ]
    near = "near_duplicate"
    assert curated(rows, "--near_duplicates") == {
        3: (near, "set/a:1"),
        7: (near, "set/a:6"),
        9: (near, "set/a:8"),
        11: ("duplicate_pair", "set/a:4"),
    }


def test_leaks_of_pictures_and_questions(curated):
    for seed, name in ((1, "a.png"), (2, "b.png"), (4, "held.png")):
        scene(seed).save(curated.images / name)
    scene(4).crop((5, 4, 195, 146)).save(curated.images / "leak.jpg", quality=70)
    held_out = [
        {"image": "held.png", "question": LONG},
        {"image": "held.png", "question": "How many?"},
        {"question": "What is 17 times 3?"},
    ]
    rows = [
        {"image": "a.png", "question": "How many?"},  # everybody's question about another picture
        {"image": "leak.jpg", "question": "What is it?"},
        {"image": "b.png", "question": f"Look. {LONG} Answer."},
        {"image": "b.png", "question": LONG.replace("7", "9")},
        {"question": "What is 17 times 3"},
        {"question": "What is 17 times 4?"},
    ]
    assert curated(rows, held_out=held_out) == {
        2: ("leaked_picture", "held_out.jsonl:1"),
        3: ("leaked_question", "held_out.jsonl:1"),
        5: ("leaked_question", "held_out.jsonl:3"),
    }
    report = json.loads((curated.images.parent / "out/curation.json").read_text())["decontamination"]
    assert (report["rows_removed"], report["rows_with_leaked_picture"], report["rows_with_leaked_wording"]) == (3, 1, 2)
    assert report["headline"].startswith("3 evaluation questions against 6 training rows")


def test_boilerplate_is_no_leak(curated):
    frame = (
        "Please answer the question with a single word and give no reason at all, whatever it may be that you think: "
    )
    held_out = [{"question": f"{frame}what is {name}?"} for name in ("red", "green", "blue", "black", "white")]
    assert curated([{"question": f"{frame}where is it?"}], held_out=held_out) == {}


def test_pairs_of_a_prompt_are_limited_by_the_seed(curated):
    rows = [{"question": "What?"}] * 5 + [{"question": "Who?"}] * 2
    left = curated(rows, "--pairs_per_prompt", "3")
    assert len(left) == 2 and set(left) < {1, 2, 3, 4, 5} and set(left.values()) == {("pairs_per_prompt", None)}
    assert left == curated(rows, "--pairs_per_prompt", "3")


def test_lengths_are_balanced(curated):
    rows = [{"question": f"Q {n}?", "chosen": "longer answer", "rejected": "short"} for n in range(9)]
    rows += [{"question": f"P {n}?", "chosen": "short", "rejected": "longer answer"} for n in range(2)]
    left = curated(rows, "--most_longer", "0.6")
    assert len(left) == 6 and max(left) <= 9  # 3 of 5 are 0.6
    assert (
        allowed_majority(9, 2, 0, 0.6) == 3
        and allowed_majority(6, 4, 0, 0.6) == 6
        and allowed_majority(9, 0, 0, 0.5) == 0
    )


def test_languages(curated):
    rows = [
        {"question": "How many circles are there in the picture?", "chosen": "There are three red circles in it."},
        {"question": "Wie viele Kreise sind im Bild zu sehen?", "chosen": "Es sind drei rote Kreise im Bild zu sehen."},
        {"question": "x = 3"},
    ]
    assert curated(rows, "--languages", "en") == {2: ("language", "de")}


def test_difficulty_by_the_share_of_right_answers(curated, tmp_path):
    sampled = tmp_path / "sampled"
    sampled.mkdir()
    rows = []
    for question, right in (("easy?", 4), ("mixed?", 2), ("hard?", 0)):
        for sample in range(4):
            answer = "7" if sample < right else "9"
            rows.append(
                {
                    "question": question,
                    "question_orig": question,
                    "answer": "7",
                    "image": "a.png",
                    "response": f"So.\nFinal answer: {answer}",
                    "prompt_version": "en",
                }
            )
    (sampled / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"image": "a.png", "question": question} for question in ("easy?", "mixed?", "hard?", "unknown?")]
    left = curated(pairs, "--sampled", str(sampled))
    assert left == {
        1: ("difficulty", "1.000 of its answers are right"),
        3: ("difficulty", "0.000 of its answers are right"),
    }
    assert asked_key(["a"], "b") != asked_key([], "a\0b")


def test_rows_that_cannot_be_used_leave_with_their_reason(curated):
    left = curated([{"question": ""}, {"question": "What?"}])
    assert left[1][0] == "unusable" and "field 'question' is empty" in left[1][1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--meta_path", "nowhere.json"], "nowhere.json: no such file"),
        (["--held_out", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--sampled", "."], "no sampled answers"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"question": "a?", "chosen": "b", "rejected": "c"}\n')
    spec = DatasetSpec("one", "", "pairs.jsonl")
    (tmp_path / "meta.json").write_text(json.dumps({"one": spec.to_entry()}))
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert end_of(curate.main, "--meta_path", "meta.json", "--out", "out", *flags) == 2
    assert words in capsys.readouterr().err


@pytest.mark.integration
def test_planted_duplicates_and_leaks_are_found(monkeypatch):
    """The detection of benchmarks/bench_curation.py on some drawn pictures."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench_curation, planted_rows = import_module("bench_curation"), import_module("planted_rows")
    monkeypatch.setattr(planted_rows, "DRAWN", 4)
    monkeypatch.setattr(planted_rows, "PACKAGES", {})
    counts = bench_curation.detect(0)
    alarms, clean = counts.pop("clean")
    found, planted = (sum(column) for column in zip(*counts.values(), strict=True))
    assert planted > 50 and found >= 0.95 * planted and alarms <= 0.01 * clean
