"""meta.json: accepted fields, defaults, and an error that names file, data set, field and value."""

import json
from pathlib import Path

import pytest

from internvl_chat.records.meta import DatasetSpec, read_meta

GOLDEN = Path(__file__).parents[1] / "golden/data/meta.json"


def write(tmp_path, entry, name="d"):
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({name: entry}), encoding="utf-8")
    return path


def test_golden_meta():
    english, chinese = read_meta(GOLDEN)
    assert english == DatasetSpec("mmpr_en_mix", "images/", "mmpr_en.jsonl", repeat_time=2, length=7)
    assert (chinese.name, chinese.max_dynamic_patch, chinese.repeat_time) == ("mmpr_zh_multi", 6, 1)


def test_documented_entry_and_digit_string(tmp_path):
    entry = {"root": "r", "annotation": "a.jsonl", "data_augment": True, "max_dynamic_patch": 12, "repeat_time": 0.13}
    (spec,) = read_meta(write(tmp_path, {**entry, "length": "66457"}))
    assert spec == DatasetSpec("d", "r", "a.jsonl", True, 12, 0.13, 66457)
    assert spec.to_entry() == {**entry, "length": 66457}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeat_time": -1}, "'repeat_time' must be a finite number >= 0, not -1"),
        ({"repeat_time": "2"}, "not '2'"),
        ({"repeat_time": float("nan")}, "not nan"),
        ({"repeat_time": True}, "not True"),
        ({"repeat": "2"}, "'repeat' must be a finite number >= 0, not '2'"),
        ({"repeat": 2, "repeat_time": 3}, "'repeat_time' and 'repeat' mean the same and differ"),
        ({"max_dynamic_patch": 0}, "'max_dynamic_patch' must be a whole number >= 1 and <= 256, not 0"),
        ({"max_dynamic_patch": 10**9}, "and <= 256, not 1000000000"),
        ({"repeat_time": 10**400}, "'repeat_time' must be at most 1000000, not 1000"),
        ({"repeat_time": float("inf")}, "not inf"),
        ({"max_dynamic_patch": 1.5}, "not 1.5"),
        ({"data_augment": "false"}, "'data_augment' must be true or false, not 'false'"),
        ({"annotation": ""}, "'annotation' must be a path, not ''"),
        ({"root": 3}, "'root' must be a path, or null where rows are of text alone, not 3"),
    ],
)
def test_wrong_fields(tmp_path, change, message):
    path = write(tmp_path, {"root": "r", "annotation": "a", **change})
    with pytest.raises(ValueError) as raised:
        read_meta(path)
    assert message in str(raised.value)
    assert f"{path}: data set 'd': " in str(raised.value)


def test_repeat_is_another_word_for_repeat_time(tmp_path, caplog):
    for entry in ({"repeat": 0.5}, {"repeat": 0.5, "repeat_time": 0.5}, {"repeat": 0.5, "repeat_time": None}):
        (spec,) = read_meta(write(tmp_path, {"root": "r", "annotation": "a", **entry}))
        assert spec.repeat_time == 0.5 and spec.to_entry()["repeat_time"] == 0.5
    assert not caplog.text


def test_a_root_of_null_is_that_of_rows_of_text(tmp_path):
    (spec,) = read_meta(write(tmp_path, {"root": None, "annotation": "a"}))
    assert spec.root == ""
    with pytest.raises(ValueError, match="'root' must be a path, or null"):
        read_meta(write(tmp_path, {"annotation": "a"}))


@pytest.mark.parametrize("length", ["number of samples in the dataset", -1, 1.5, True, [3], {}, "9" * 5000, "٣x"])
def test_a_length_that_is_no_number_is_said_and_nothing_more(tmp_path, caplog, length):
    (spec,) = read_meta(write(tmp_path, {"root": "r", "annotation": "a", "length": length}))
    assert spec.length is None and "'length' is no number of rows" in caplog.text


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"d": 1}', '{"d": {"root": "r"}}'])
def test_wrong_files(tmp_path, text):
    path = tmp_path / "meta.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="meta.json"):
        read_meta(path)


def test_a_name_given_twice_is_refused(tmp_path):
    path = tmp_path / "meta.json"
    path.write_text('{"d": {"root": "", "annotation": "a"}, "d": {"root": "", "annotation": "b"}}')
    with pytest.raises(ValueError, match=r"given twice: \['d'\]"):
        read_meta(path)


def test_unknown_fields_are_reported(tmp_path, caplog):
    read_meta(write(tmp_path, {"root": "r", "annotation": "a", "repeat_tme": 2}))
    assert "repeat_tme" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"d": "\xff"}', "not valid UTF-8 at byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        (b'\xef\xbb\xbf{"d": {}}', "Unexpected UTF-8 BOM"),
        (b'{"d": {"root": 1' + b"0" * 5000 + b"}}", "not a usable meta.json: Exceeds the limit"),
        (b'{"' + b"x" * 10_000 + b'": 5}', "characters): must be an object"),
    ],
)
def test_what_is_no_meta_file(tmp_path, data, message):
    path = tmp_path / "meta.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="meta.json") as raised:
        read_meta(path)
    assert message in str(raised.value) and len(str(raised.value)) < 1000


def test_a_folder_and_an_absent_file_are_no_meta_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a regular file; name the meta.json"):
        read_meta(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file; name the meta.json"):
        read_meta(tmp_path / "absent.json")
