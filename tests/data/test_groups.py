"""Which rows have a prompt or a picture in common, read off rows of all kinds."""

import json

import pytest

from internvl_chat.data.groups import image_groups, prompt_groups
from internvl_chat.data.mixture import Mixture


def test_prompts_of_a_mixture(tmp_path):
    rows = [
        {"image": "a.png", "question": "q", "chosen": "1", "rejected": "2"},
        {"image": "a.png", "question": "q", "chosen": "1", "rejected": "3"},
        {"image": "b.png", "question": "q", "chosen": "1", "rejected": "2"},
    ]
    lines = [*(json.dumps(row) for row in rows), "not JSON"]
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    meta = {
        name: {"root": str(tmp_path), "annotation": str(tmp_path / f"{name}.jsonl"), "repeat_time": repeat}
        for name, repeat in (("x", 2), ("y", 1))
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    mixture = Mixture.from_meta(tmp_path / "meta.json", cache_dir=tmp_path / "cache")
    groups = prompt_groups(mixture)
    named = {}
    for place, group in enumerate(groups):
        data, row, copy = mixture.locate(place)
        named.setdefault(group, set()).add((data.spec.name, row, copy))
    expected = [{(name, 0, copy), (name, 1, copy)} for name, copy in (("x", 0), ("x", 1), ("y", 0))]
    expected += [{(name, row, copy)} for name, copy in (("x", 0), ("x", 1), ("y", 0)) for row in (2, 3)]
    assert sorted(map(sorted, named.values())) == sorted(map(sorted, expected))


def test_another_video_clip_or_history_is_another_prompt(tmp_path):
    row = {"question": "q", "chosen": "1", "rejected": "2"}
    others = [{"video": "a.mp4"}, {"video": "b.mp4"}, {"video": "a.mp4", "clip": [0, 1]}, {"history": [["a", "b"]]}]
    lines = [json.dumps({**row, **more}) for more in ({}, *others) for _ in range(2)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "meta.json").write_text(json.dumps({"x": {"root": ".", "annotation": str(tmp_path / "x.jsonl")}}))
    groups = prompt_groups(Mixture.from_meta(tmp_path / "meta.json", cache_dir=tmp_path / "cache"))
    assert len(set(groups.tolist())) == 5 and len(groups) == 10


def groups_of(tmp_path, rows):
    """By their pictures, numbered in order of appearance, of rows in their order."""
    lines = [row if isinstance(row, str) else json.dumps({"chosen": "1", "rejected": "2", **row}) for row in rows]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "meta.json").write_text(json.dumps({"x": {"root": ".", "annotation": str(tmp_path / "x.jsonl")}}))
    mixture = Mixture.from_meta(tmp_path / "meta.json", cache_dir=tmp_path / "cache")
    by_row = dict(zip((mixture.locate(place).row for place in range(len(rows))), image_groups(mixture), strict=True))
    numbers = {}
    return [numbers.setdefault(by_row[row], len(numbers)) for row in range(len(rows))]


SAME = {"image": "a.png", "question": "q"}


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ({"image": "a.png", "question": "another"}, True),
        ({"image": ["a.png"], "question": "q"}, True),
        ({"image": "a.png", "question": "<image>\nanother"}, True),
        ({"image": "a.png", "question": "<image>q", "history": [["before", "it"]]}, False),  # the picture comes behind
        ({"image": "a.png", "question": "q", "history": [["<image>before", "it"]]}, True),
        ({"image": "a.png", "question": "look at <image>"}, False),
        ({"image": ["a.png", "b.png"], "question": "q"}, False),
        ({"image": "b.png", "question": "q"}, False),
        ({"question": "q"}, False),
        ({"video": "a.png", "question": "q"}, False),
        ("no JSON", False),
    ],
    ids=str,
)
def test_rows_of_one_picture_meet_where_it_comes_first(tmp_path, other, is_same):
    assert groups_of(tmp_path, [SAME, other]) == ([0, 0] if is_same else [0, 1])


def test_rows_without_pictures_meet_by_their_prompt(tmp_path):
    rows = [{"question": "q"}, {"question": "q", "image": []}, {"question": "r"}, {"question": "q"}]
    assert groups_of(tmp_path, rows)[0] == groups_of(tmp_path, rows)[3] == 0
    assert groups_of(tmp_path, rows)[2] != 0


def test_parts_of_a_video_are_pictures_of_their_own(tmp_path):
    clip = {"video": "a.mp4", "clip": [0, 1], "question": "q"}
    assert groups_of(tmp_path, [clip, {**clip, "question": "r"}, {**clip, "clip": [1, 2]}]) == [0, 0, 1]
