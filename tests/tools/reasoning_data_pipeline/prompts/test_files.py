"""Prompt versions and styles, the rows of a prompt file, and where images are found."""

import json
from pathlib import Path

import pytest

from internvl_chat.model.constants import IMAGE_PLACEHOLDER
from internvl_chat.records.rows import RecordError, Source
from tools.reasoning_data_pipeline.answers.parsing import parse_answer
from tools.reasoning_data_pipeline.prompts import wording as prompts
from tools.reasoning_data_pipeline.prompts.files import ImageRoots, PromptFile, select_rows
from tools.reasoning_data_pipeline.prompts.wording import (
    REASONING,
    STYLES,
    VERSIONS,
    ask,
    split_placeholders,
    style_for,
    version_for,
    without_images,
)

WHERE = Source("prompts.jsonl", 3)
SAMPLED = Path(__file__).parents[3] / "answers" / "pairs" / "sampled"


def test_the_placeholder_is_that_of_the_model():
    assert prompts.IMAGE_PLACEHOLDER == IMAGE_PLACEHOLDER


@pytest.mark.parametrize("name", ["ai2d_en", "chartqa_en", "study_zh"])
def test_en_and_zh_ask_as_the_original_did(name):
    rows = [json.loads(line) for line in (SAMPLED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    # Several images: the original wrote one placeholder for all of them, training wants one for each.
    rows = [row for row in rows if row["prompt_version"] in ("en", "zh") and row["question"].startswith("<image>")]
    rows = [row for row in rows if isinstance(row.get("image"), str) and row["image"]]
    assert rows
    for row in rows:
        assert ask(row["question_orig"], 1, version=row["prompt_version"], where=WHERE) == row["question"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("style", REASONING)
def test_every_version_asks_for_the_format_that_is_parsed(version, style):
    asked = ask("Which {one}?", 0, version=version, style=style, where=WHERE)
    assert "Which {one}?" in asked
    assert REASONING[style][version[:2]] in asked
    marks = {"en": "Final answer: ..", "zh": "答案: ...", "v2": "\\boxed{..}", "r1": "\\boxed{}"}
    assert marks[version[-2:]] in asked
    assert ("<think>" in asked) == version.endswith("r1")
    reasoning = "Some words of reasoning that are long enough.\n"
    answers = {"en": "Final answer: 5", "zh": "答案: 5", "v2": "Answer: \\boxed{5}"}
    final = answers.get(version[-2:], f"<think>{reasoning}</think> so \\boxed{{5}}")
    text = final if version.endswith("r1") else reasoning + final
    assert parse_answer(text, version).text == "5"


@pytest.mark.parametrize(
    ("version", "name", "found"),
    [
        ("en", "geoqa_zh_2024.jsonl", "zh"),
        ("en_r1", "geoqa_zh_2024.jsonl", "zh_r1"),
        ("zh_v2", "geoqa_en.jsonl", "zh_v2"),
        ("en", "study_zh.jsonl", "en"),
        ("en_v2", "a_en_b.jsonl", "en_v2"),
    ],
)
def test_the_file_name_decides_the_language(version, name, found):
    assert version_for(version, name) == found


def test_mixed_styles_are_drawn_by_the_key():
    drawn = [style_for("mixed", f"row-{number}") for number in range(400)]
    assert drawn == [style_for("mixed", f"row-{number}") for number in range(400)]
    assert all(60 < drawn.count(style) < 140 for style in REASONING)
    assert style_for("visual", "row-1") == "visual"
    assert STYLES == ("plain", "background", "visual", "grounded", "mixed")


@pytest.mark.parametrize(
    ("question", "images", "head", "body"),
    [
        ("What?", 0, "", "What?"),
        ("What?", 2, "<image>\n<image>\n", "What?"),
        ("<image>\nWhat?", 1, "<image>\n", "What?"),
        (" <image><image> What?", 2, "<image>\n<image>\n", "What?"),
        ("Is <image> like <image>?", 2, "", "Is <image> like <image>?"),
        ("<image>\nIs it like <image>?", 2, "<image>\n", "Is it like <image>?"),
    ],
)
def test_leading_images_stay_in_front_of_the_instruction(question, images, head, body):
    assert split_placeholders(question, images, WHERE) == (head, body)
    asked = ask(question, images, version="en", where=WHERE)
    assert asked.startswith(head + "Your task")
    assert asked.endswith(body)
    assert asked.count("<image>") == images
    assert ask(question, images, version=None, where=WHERE) == head + body


def test_placeholders_must_match_the_images():
    with pytest.raises(RecordError, match=r"prompts.jsonl:3: 2 <image> in the question for 1 images"):
        ask("<image> and <image>", 1, version="en", where=WHERE)
    with pytest.raises(RecordError, match=r"prompts.jsonl:3: 1 <image> in the question for 2 images"):
        ask("<image>", 2, version="en", where=WHERE)


def test_a_question_without_its_images():
    assert without_images("<image>\n<image>\nIs <image> it?") == "Is  it?"


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "start", "limit", "rows"),
    [
        (10, 0, None, list(range(10))),
        (10, 0, 3, [0, 3, 6]),
        (10, 2, 3, [2, 5, 8]),
        (10, 5, 3, [5, 8]),
        (10, 4, 20, [4, 5, 6, 7, 8, 9]),
        (7, 0, 5, [0, 1, 2, 3, 4]),
        (0, 0, 4, []),
    ],
)
def test_rows_are_spread_over_the_file(total, start, limit, rows):
    assert list(select_rows(total, start, limit)) == rows


@pytest.mark.parametrize(("total", "start", "limit"), [(5, 5, 1), (5, -1, 1), (5, 0, 0)])
def test_impossible_selections_are_refused(total, start, limit):
    with pytest.raises(ValueError, match="--sample-"):
        select_rows(total, start, limit)


@pytest.fixture
def prompt_file(tmp_path, monkeypatch):
    """Function from lines to the path of a prompt file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def written(*lines, name="p.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return written


def test_keys_name_line_and_content(prompt_file):
    path = prompt_file('{"question": "a"}', "", '{"question": "a"}', '{"question": "b"}')
    first = PromptFile(path)
    assert first.total == 3
    assert [key.split("-")[0] for key in first.keys] == ["1", "3", "4"]
    assert len({key.split("-")[1] for key in first.keys}) == 2
    assert PromptFile(path, variant="12").keys != first.keys
    task = first.task(first.keys[2], [0, 5])
    assert (task.row, task.samples, task.where) == ({"question": "b"}, [0, 5], Source(str(path), 4))
    assert first.where(first.keys[1]) == Source(str(path), 3)


def test_bad_lines_are_known_when_they_are_read(prompt_file):
    found = PromptFile(prompt_file('{"question": "a"},', "[1]"))
    for key, reason in zip(found.keys, ("trailing comma", "a row is a JSON object"), strict=True):
        with pytest.raises(RecordError, match=reason):
            found.task(key, [0])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.jsonl: no such file"):
        PromptFile(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_rows_is_refused(prompt_file, text):
    with pytest.raises(ValueError, match="no rows; --prompt-path names a JSONL file of prompts"):
        PromptFile(prompt_file(text))


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A working directory, a root, a prompt folder, each with a file of its own, and one that all have."""
    for folder, name in (("here", "w.png"), ("root", "r.png"), ("prompts", "p.png")):
        (tmp_path / folder).mkdir()
        for file in (name, "all.png"):
            (tmp_path / folder / file).write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_images_are_found_in_the_documented_order(tree):
    roots = ImageRoots(tree / "prompts")
    found = roots.resolve(("w.png", "p.png", "all.png", "../root/r.png", str(tree / "root" / "r.png")), WHERE)
    names = ("here/w.png", "prompts/p.png", "here/all.png", "root/r.png", "root/r.png")
    assert found == tuple(str(tree / name) for name in names)


def test_a_root_is_not_left(tree):
    roots = ImageRoots(tree / "prompts", root=tree / "root")
    assert roots.resolve(("r.png", "all.png"), WHERE) == (str(tree / "root/r.png"), str(tree / "root/all.png"))
    assert ImageRoots(tree / "prompts", root=Path("../root")).resolve(("r.png",), WHERE) == (str(tree / "root/r.png"),)
    for path in ("w.png", "../here/w.png", "p.png", str(tree / "here" / "w.png")):
        with pytest.raises(RecordError, match="may not lead out of --image-root"):
            roots.resolve((path,), WHERE)


@pytest.mark.parametrize(
    "path", ["https://example.com/a.png", "data:image/png;base64,AAAA", "a\0.png", "gone.png", "."]
)
def test_what_is_no_image_file_is_refused(tree, path):
    with pytest.raises(RecordError, match="prompts.jsonl:3"):
        ImageRoots(tree / "prompts").resolve((path,), WHERE)


def test_symlinked_folders_are_followed_and_single_files_on_request(tree):
    (tree / "root" / "linked").symlink_to(tree / "prompts")
    (tree / "root" / "single.png").symlink_to(tree / "here" / "w.png")
    roots = ImageRoots(tree / "prompts", root=tree / "root")
    assert roots.resolve(("linked/p.png",), WHERE) == (str(tree / "root/linked/p.png"),)
    with pytest.raises(RecordError, match="symlink of a single file"):
        roots.resolve(("single.png",), WHERE)
    followed = ImageRoots(tree / "prompts", root=tree / "root", follow_symlinks=True)
    assert followed.resolve(("single.png",), WHERE) == (str(tree / "root/single.png"),)
