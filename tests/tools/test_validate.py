"""Validation: forty planted faults are found and nothing else, training agrees, a killed run goes on, exit codes."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.records.samples import SkippedRow
from tests.door import end_of
from tests.videos import write_mp4
from tools import validate
from tools.validation.chunks import ChunkChecker
from tools.validation.faults import FAULTS

REPOSITORY = Path(__file__).parents[2]
ASKED = 'How many bars are there? Please use the format "Final answer: .."'
LENGTH = 512


def good(number):
    """A row without a fault, unlike all others."""
    steps = f"Chart {number} shows the years 2019 to 2022, so"
    return {
        "image": f"{number % 3}.png",
        "question": f"Chart {number}: {ASKED}",
        "chosen": f"{steps} there are 4.\nFinal answer: 4",
        "rejected": f"{steps} we see 5{' of the bars' * (number % 2)}.\nFinal answer: 5",
    }


# (fault, what is changed in a good row): each is found where it stands, under this name.
ROW_FAULTS = [
    ("bad_json", b'{"question": "Why?", "chosen": "Yes", "rej'),
    ("bad_json", b'\xef\xbb\xbf{"question": "Why?", "chosen": "Yes", "rejected": "No"}'),
    ("bad_json", b"[1, 2]"),
    ("picture_key", {"img": "0.png", "image": ...}),
    ("picture_key", {"Video_Path": "short.mkv", "image": None}),
    ("missing_field", {"rejected": ...}),
    ("missing_field", {"question": ...}),
    ("wrong_type", {"chosen": 4}),
    ("wrong_type", {"image": {"path": "0.png"}}),
    ("empty_question", {"question": " \n"}),
    ("video_unreadable", {"video": "page.png", "image": ...}),
    ("video_broken", {"video": "cut.gif", "image": ...}),
    ("placeholder_mismatch", {"question": f"<image> and <image>: {ASKED}"}),
    ("placeholder_mismatch", {"image": ["0.png", "1.png"], "question": f"<image>\nBoth? {ASKED}"}),
    ("empty_answer", {"rejected": ""}),
    ("empty_answer", {"chosen": ""}),
    ("same_answers", lambda row: {"rejected": row["chosen"]}),
    ("image_missing", {"image": "gone.png"}),
    ("image_missing", {"image": ["0.png", "folder"]}),
    ("image_url", {"image": "https://example.org/a.png"}),
    ("image_outside_root", {"image": "../secret.png"}),
    ("image_outside_root", {"image": "link.png"}),
    ("image_unreadable", {"image": "page.png"}),
    ("image_unreadable", {"image": "empty.png"}),
    ("image_broken", {"image": "cut.png"}),
    ("image_broken", {"image": "cut.jpg"}),
    ("image_too_large", {"image": "huge.ppm"}),
    ("too_long", {"chosen": "So it goes on, word by word by word. " * 60 + "\nFinal answer: 4"}),
    ("blank_answer", {"rejected": "  \n"}),
    ("nearly_same_answers", lambda row: {"rejected": row["chosen"].upper() + "."}),
    ("placeholder_in_answer", {"rejected": "In <image> there are 5.\nFinal answer: 5"}),
    ("special_token_in_text", {"chosen": "It is 4.<|im_end|>\nFinal answer: 4"}),
    ("image_mark", {"question": f"<image1> or not? {ASKED}"}),
    ("garbled_text", {"question": f"Gr\ufffd\ufffde? {ASKED}"}),
    ("garbled_text", {"rejected": "It is \x00 5.\nFinal answer: 5"}),
    ("looping_answer", {"chosen": "It is\nFinal answer: 4" + " and 4" * 50}),
    ("answer_leak", {"question": f"{ASKED}\nThe answer is 4."}),
    ("answer_leak", lambda row: {"question": f"{ASKED} Hint: {row['chosen']} or so."}),
    ("no_final_answer", {"chosen": "There are 4 bars."}),
    ("same_final_answer", {"rejected": "A guess.\nFinal answer: 4."}),
    ("fewer_tiles", {"chosen": "So it is, one by one. " * 38 + "\nFinal answer: 4", "image": "wide.png"}),
    ("image_tiny", {"image": "pixel.png"}),
    ("image_rotated", {"image": "photo.jpg"}),
    ("image_animated", {"image": "moving.gif"}),
    ("image_transparent", {"image": "glass.png"}),
    ("image_flat", {"image": "flat.png"}),
    ("image_flat", {"image": "dark.png"}),
    ("image_flat", {"image": "ink.png"}),
    ("video_short", {"video": "short.mkv", "image": ...}),
    ("duplicate_pair", good(0)),
    ("duplicate_pair", {**good(1), "image": "copy_of_1.png"}),
    ("contradictory_pair", {**good(2), "chosen": good(2)["rejected"], "rejected": good(2)["chosen"]}),
]


def changed(row, change):
    """A row with other fields (... removes one), or a line instead of it."""
    if isinstance(change, bytes):
        return change
    fields = change(row) if callable(change) else change
    return {key: value for key, value in {**row, **fields}.items() if value is not ...}


def write_images(folder):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 240, 3), np.uint8)
    for number in range(3):
        Image.fromarray(pixels[:, 60 * number : 60 * number + 60]).save(folder / f"{number}.png")
    (folder / "copy_of_1.png").write_bytes((folder / "1.png").read_bytes())
    wide = Image.fromarray(pixels)
    wide.save(folder / "wide.png")
    wide.save(folder / "whole.jpg")
    for name, whole in (("cut.png", "wide.png"), ("cut.jpg", "whole.jpg")):
        (folder / name).write_bytes((folder / whole).read_bytes()[:3000])
    (folder.parent / "secret.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "page.png").write_text("<html>404 not found</html>")
    (folder / "empty.png").touch()
    (folder / "huge.ppm").write_bytes(b"P6 40000 40000 255\n")
    (folder / "folder").mkdir()
    wide.crop((0, 0, 40, 1)).save(folder / "pixel.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "photo.jpg", exif=exif)
    frames = [Image.fromarray(pixels[:, at : at + 60]) for at in (0, 60)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "cut.gif").write_bytes((folder / "moving.gif").read_bytes()[:-3000])
    glass = Image.fromarray(pixels[:, :60])
    glass.putalpha(Image.new("L", glass.size))
    glass.save(folder / "glass.png")
    Image.new("RGB", (60, 60), (20, 30, 40)).save(folder / "flat.png")
    Image.fromarray(pixels[:, :60] >> 4).save(folder / "dark.png")  # as of 12 bits in 16
    ink = Image.new("RGBA", (60, 60))
    ink.putalpha(glass.convert("L"))  # black ink whose alpha alone shows it; nowhere clear
    ink.getchannel("A").point(lambda level: max(level, 1)).save(folder / "alpha.png")
    ink.putalpha(Image.open(folder / "alpha.png"))
    ink.save(folder / "ink.png")
    write_mp4(folder / "short.mkv", 60)
    film = (folder / "short.mkv").read_bytes()
    (folder / "short.mkv").write_bytes(film[: len(film) // 2])


def write_jsonl(path, rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A mixture with every planted fault; returns (folder, expected Counter of (fault, data set, line))."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "images")
    rows = [good(number) for number in range(400, 412)]
    expected = Counter()
    rows[:3] = [good(number) for number in range(3)]
    for number, (fault, change) in enumerate(ROW_FAULTS):
        rows.append(changed(good(number + 1000), change))
        expected[fault, "bars_correctness", len(rows)] += 1
        rows.append(good(number + 2000))
    write_jsonl(tmp_path / "bars.jsonl", rows)
    text = [{"question": f"{n} + 1?", "chosen": f"{n} + 1 = {n + 1}", "rejected": "1"} for n in range(120)]
    write_jsonl(tmp_path / "sums.jsonl", text)
    write_jsonl(tmp_path / "words.jsonl", [{"question": "Why?", "chosen": "Well.", "rejected": "So."}])
    write_jsonl(tmp_path / "other.jsonl", [good(number) for number in range(600, 604)])
    write_jsonl(tmp_path / "empty.jsonl", [])
    (tmp_path / "array.jsonl").write_text(json.dumps([good(1), good(2)], indent=1))
    write_jsonl(
        tmp_path / "held_out.jsonl", [good(601), good(700), {**good(2000), "chosen": "4, as seen.\nFinal answer: 4"}]
    )
    meta = {
        "bars_correctness": {"root": "images", "annotation": "bars.jsonl", "length": len(rows)},
        "sums": {"root": "", "annotation": "sums.jsonl", "repeat_times": 2},
        "other": {"root": "images", "annotation": "other.jsonl", "repeat_time": 0, "length": 3},
        "none": {"root": "images", "annotation": "empty.jsonl"},
        "array": {"root": "images", "annotation": "array.jsonl"},
        "nowhere": {"root": "no_images", "annotation": "bars.jsonl"},
        "negative": {"root": "images", "annotation": "bars.jsonl", "repeat_time": -1},
        "words": {"root": None, "annotation": "words.jsonl", "length": "number of samples in the dataset", "repeat": 2},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    held_out = {"held": {"root": "images", "annotation": "held_out.jsonl"}}
    (tmp_path / "held_out.json").write_text(json.dumps(held_out))
    expected.update(
        [
            ("meta_unknown_field", "sums", 0),
            ("length_bias", "sums", 0),
            ("length_differs", "other", 0),
            ("nothing_drawn", "other", 0),
            ("no_rows", "none", 0),
            ("wrong_file", "array", 0),
            ("path_missing", "nowhere", 0),
            ("meta_unusable", "negative", 0),
            ("length_differs", "words", 0),
            ("held_out_in_train", "held", 1),
            ("held_out_in_train", "held", 3),
        ]
    )
    return tmp_path, expected


def run(folder, *more, checkpoint=None, workers=1):
    argv = ["--meta_path", str(folder / "meta.json"), "--output_dir", str(folder / "report")]
    argv += ["--force_image_size", "56", "--max_seq_length", str(LENGTH), "--num_workers", str(workers), *more]
    return end_of(validate.main, *argv, *(["--model_name_or_path", checkpoint] if checkpoint else []))


def found(folder):
    lines = (folder / "report" / "findings.jsonl").read_text().splitlines()
    return Counter((row["fault"], row["dataset"], row["line"]) for row in map(json.loads, lines))


def test_planted_faults_are_found_and_nothing_else(planted, golden, capsys):
    folder, expected = planted
    assert expected.total() >= 40 and len({fault for fault, _, _ in expected}) >= 20
    assert run(folder, "--eval_meta_path", str(folder / "held_out.json"), checkpoint=golden.ckpt, workers=2) == 1
    assert found(folder) == expected
    report = json.loads((folder / "report" / "validation.json").read_text())
    assert {fault["name"]: fault["count"] for fault in report["faults"]} == Counter(
        fault for fault, _, _ in expected.elements()
    )
    out = capsys.readouterr().out
    assert report["verdict"] in out and report["verdict"].startswith(
        "FAIL: data sets that could not be read: negative, nowhere, array, none, 28 of "
    )
    assert not list((folder / "report").glob("*.parts"))
    page = (folder / "report" / "validation.html").read_text()
    with_image = page.partition("<code>empty_answer</code>")[2].partition("</details>")[0]
    assert with_image.count("<img src=") == 2 and "no picture of cut.png" in page and "data:" not in json.dumps(report)


def test_training_skips_what_validation_calls_unusable(planted, golden, tokenizer):
    """The rows with an error are those that the data set of the training leaves out, decoded or not."""
    folder, expected = planted
    meta = {"bars_correctness": {"root": "images", "annotation": "bars.jsonl"}}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert run(folder, checkpoint=golden.ckpt) == 1
    errors = {line for fault, _, line in found(folder) if FAULTS[fault].severity == "error"}
    dataset = MixtureDataset(
        folder / "meta.json",
        tokenizer,
        template="internvl2_5",
        num_image_token=4,
        image_size=56,
        max_seq_length=LENGTH,
    )
    samples = (dataset[place] for place in range(len(dataset)))
    assert errors == {sample.line for sample in samples if isinstance(sample, SkippedRow)}
    report = json.loads((folder / "report" / "validation.json").read_text())
    assert report["unusable_rows"] == len(errors) == 28


def test_a_killed_run_goes_on(planted, monkeypatch):
    folder, _ = planted
    rows = [good(number) for number in range(5000, 5600)] + [{**good(0), "rejected": ""}]
    write_jsonl(folder / "bars.jsonl", rows)
    (folder / "meta.json").write_text(json.dumps({"bars": {"root": "images", "annotation": "bars.jsonl"}}))
    checked = []

    def stopping(checker, chunk):
        checked.append(chunk)
        if len(checked) == 2:
            raise KeyboardInterrupt
        return whole(checker, chunk)

    whole = ChunkChecker.__call__
    monkeypatch.setattr(ChunkChecker, "__call__", stopping)
    assert run(folder) == 130
    assert run(folder) == 1
    assert [tuple(chunk) for chunk in checked] == [(0, 0, 500), (0, 500, 601), (0, 500, 601)]
    assert found(folder) == Counter({("empty_answer", "bars", 601): 1})
    # A finished run leaves nothing to go on from: the next looks at every row again.
    write_jsonl(folder / "bars.jsonl", rows[:-1])
    assert run(folder) == 0
    assert len(checked) == 5


def test_exit_codes(planted, golden, capsys):
    folder, _ = planted
    write_jsonl(folder / "bars.jsonl", [good(1), {**good(2), "image": "moving.gif"}])
    (folder / "meta.json").write_text(json.dumps({"bars": {"root": "images", "annotation": "bars.jsonl"}}))
    assert run(folder, checkpoint=golden.ckpt) == 0  # a warning only
    assert run(folder, "--strict", "True") == 1
    assert run(folder, "--decode", "False", "--max_seq_length", "32") == 0
    assert run(folder, "--max_seq_length", "32", checkpoint=golden.ckpt) == 1
    assert run(folder, checkpoint=folder / "nowhere") == 2
    assert run(folder, "--num_workers", "-1") == 2
    assert run(folder, "--conv_style", "phi3-chat", checkpoint=golden.ckpt) == 2
    assert "does not know '<|end|>'" in capsys.readouterr().err
    (folder / "meta.json").write_text("{")
    assert run(folder) == 1
    (folder / "meta.json").unlink()
    assert run(folder) == 2
    assert end_of(validate.main, "--meta_path", "meta.json", "--no_such_flag", "1") == 2


def test_rows_for_fine_tuning(planted):
    folder, _ = planted
    write_jsonl(folder / "bars.jsonl", [{"question": "Why?", "chosen": "Yes"}, {**good(1), "rejected": None}])
    (folder / "meta.json").write_text(json.dumps({"bars": {"root": "images", "annotation": "bars.jsonl"}}))
    assert run(folder, "--allow_no_rejected", "True") == 0
    assert run(folder) == 1
    assert found(folder) == Counter({("missing_field", "bars", 1): 1, ("wrong_type", "bars", 2): 1})


@pytest.mark.integration
def test_a_run_killed_with_its_workers_goes_on(planted):
    """SIGKILL of the main process alone: its workers end too, and the next run takes over what was checked."""
    folder, _ = planted
    write_jsonl(folder / "bars.jsonl", [{**good(0), "chosen": ""}, *map(good, range(30_000))])
    (folder / "meta.json").write_text(json.dumps({"bars": {"root": "images", "annotation": "bars.jsonl"}}))
    command = [sys.executable, "tools/validate.py", "--meta_path", str(folder / "meta.json"), "--num_workers", "2"]
    command += ["--output_dir", str(folder / "report"), "--force_image_size", "56"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (parts := [*folder.glob("report/*.parts")]) or b"\n" not in parts[0].read_bytes():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert len(children) == 2
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    before = parts[0].read_bytes().count(b"\n")
    assert 0 < before < 60
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert second.returncode == 1, second.stderr
    assert found(folder) == Counter({("empty_answer", "bars", 1): 1})


def test_it_is_said_how_many_pairs_could_meet_in_groups(tmp_path, capsys):
    for number in range(3):
        Image.fromarray(np.full((28, 28, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    text = {name: value for name, value in good(7).items() if name != "image"}
    rows = [good(0), {**good(0), "chosen": good(1)["chosen"]}, good(3), good(4), good(1), good(2), text, text]
    rows[-1] = {**text, "chosen": "Four.\nFinal answer: 4"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "meta.json").write_text(json.dumps({"made": {"root": ".", "annotation": "rows.jsonl"}}))
    validate.main(["--meta_path", str(tmp_path / "meta.json"), "--output_dir", str(tmp_path), "--num_workers", "1"])
    said = "of 8 pairs 4 share their prompt with another and 5 an image (--group_by)"
    assert said in capsys.readouterr().out
    assert "Of 8 pairs 4 share" in (tmp_path / "validation.html").read_text()
    [figures] = json.loads((tmp_path / "validation.json").read_text())["data_sets"]
    assert (figures["sharing_prompt"], figures["sharing_image"]) == (4, 5)  # 0.png has three, 1.png two, 2.png one
