"""Mixtures: exact repeat_time, the golden order, paths, and what is said when something is missing."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from internvl_chat.data.mixture import Mixture, repeated_count, repeated_order


def write(folder, datasets, rows=10):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    meta = {}
    for name, fields in datasets.items():
        (folder / f"{name}.jsonl").write_text("".join(f'{{"id": "{name}{n}"}}\n' for n in range(rows)))
        meta[name] = {"root": "images", "annotation": f"{name}.jsonl", **fields}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder / "meta.json"


def ids(mixture):
    places = [mixture.locate(place) for place in range(len(mixture))]
    return [json.loads(place.data.rows[place.row][0])["id"] for place in places]


def test_golden_order(golden_folder, tmp_path):
    mixture = Mixture.from_meta(golden_folder / "data/meta.json", cache_dir=tmp_path)
    assert list(tmp_path.iterdir())  # the line indexes, not in the user's cache
    info = json.loads((golden_folder / "out/samples_tiny-qwen2.json").read_text())["templates"]["internvl2_5"]
    assert ids(mixture) == [row_id for order in info["order"].values() for row_id in order]
    assert {data.spec.name: len(data.order) for data in mixture.datasets} == info["lengths"]


@pytest.mark.parametrize(
    ("rows", "repeat_time", "count"),
    [
        (50, 0.13, 7),  # 6.5 rounds up; in binary 0.13 * 50 is 6.5 only by luck
        (10, 0.25, 3),
        (100, 0.145, 15),  # 14.5; in binary 14.499999999999998
        (7, 2.5, 18),
        (3, 1 / 3, 1),
        (10, 0, 0),
        (10, 0.04, 0),
        (10, 1.96, 20),
        (3_000_000, 0.13, 390_000),
        (3_000_000, 2.5, 7_500_000),
    ],
)
def test_repeat_time_is_exact(rows, repeat_time, count):
    assert repeated_count(rows, repeat_time) == count
    if rows <= 100:
        assert len(repeated_order(rows, repeat_time, 0, 0)) == count


@pytest.mark.parametrize("repeat_time", [0.4, 1, 2.7])
def test_every_row_as_often_as_it_should(repeat_time):
    order = repeated_order(50, repeat_time, number=3, seed=1)
    copies, row_counts = Counter(order // 50), Counter(order % 50)
    assert len(set(order.tolist())) == len(order)
    assert order.dtype == np.uint32
    assert {copies[copy] for copy in range(int(repeat_time))} <= {50}
    assert copies[int(repeat_time)] == round((repeat_time - int(repeat_time)) * 50)
    assert set(row_counts.values()) <= {int(repeat_time), int(repeat_time) + 1}


def test_seed_draws_the_sample():
    def drawn(seed, number=0):
        return set(repeated_order(1000, 0.1, number, seed).tolist())

    assert drawn(1) == drawn(1)
    assert len(drawn(1) & drawn(2)) < 40 > len(drawn(1) & drawn(1, number=1))


def test_places_of_several_datasets(tmp_path):
    mixture = Mixture.from_meta(
        write(tmp_path, {"a": {"repeat_time": 0.5}, "b": {"repeat_time": 0}, "c": {}}), cache_dir=tmp_path
    )
    assert len(mixture) == 15
    found = ids(mixture)
    assert {name[0] for name in found[:5]} == {"a"} and sorted(found[5:]) == [f"c{n}" for n in range(10)]
    assert mixture.locate(5).data.spec.name == "c"
    for place in (-1, 15):
        with pytest.raises(IndexError, match=f"place {place} of a mixture of 15 rows"):
            mixture.locate(place)


def test_copies_are_told_apart(tmp_path):
    mixture = Mixture.from_meta(write(tmp_path, {"a": {"repeat_time": 2}}, rows=4), cache_dir=tmp_path)
    places = [mixture.locate(place) for place in range(8)]
    assert sorted((place.row, place.copy) for place in places) == [(row, copy) for row in range(4) for copy in range(2)]


def test_row_bytes_follow_the_order(tmp_path):
    mixture = Mixture.from_meta(write(tmp_path, {"a": {"repeat_time": 1.5}, "bb": {}}, rows=12), cache_dir=tmp_path)
    lengths = [len(f'{{"id": "{name}"}}\n') for name in ids(mixture)]
    assert mixture.row_bytes().tolist() == lengths


def test_working_directory_comes_before_the_folder_of_meta(tmp_path, monkeypatch):
    meta = write(tmp_path / "there", {"a": {}})
    monkeypatch.chdir(tmp_path)
    assert Mixture.from_meta(meta, cache_dir=tmp_path).datasets[0].root == str(tmp_path / "there/images")
    write(tmp_path, {"a": {}}, rows=2)
    mixture = Mixture.from_meta(meta, cache_dir=tmp_path)
    assert (len(mixture), mixture.datasets[0].root) == (2, "images")


def test_a_root_is_looked_for_where_the_annotation_was_found(tmp_path, monkeypatch, caplog):
    """So that a folder with meta.json, pairs and pictures means the same wherever it lies and a run starts."""
    meta = write(tmp_path / "there", {"a": {}})
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    mixture = Mixture.from_meta(meta, cache_dir=tmp_path)
    assert Path(mixture.datasets[0].root) == tmp_path / "there" / "images"
    both = f"root 'images' is both {tmp_path / 'there/images'}, which is read, and {tmp_path / 'images'}"
    assert both in caplog.text and "write an absolute path to choose" in caplog.text


def test_a_path_that_means_two_things_is_said(tmp_path, monkeypatch, caplog):
    meta = write(tmp_path / "there", {"a": {}})
    monkeypatch.chdir(tmp_path)
    Mixture.from_meta(meta, cache_dir=tmp_path)
    assert "is both" not in caplog.text
    write(tmp_path, {"a": {}}, rows=2)
    Mixture.from_meta(meta, cache_dir=tmp_path)
    for path in ("images", "a.jsonl"):
        assert f"{tmp_path / path}, which is read, and {tmp_path / 'there' / path}; write" in caplog.text
    caplog.clear()
    monkeypatch.chdir(tmp_path / "there")  # both places are one
    Mixture.from_meta(meta, cache_dir=tmp_path)
    Mixture.from_meta("meta.json", cache_dir=tmp_path)
    assert "is both" not in caplog.text


@pytest.mark.parametrize(("field", "kind"), [("root", "folder"), ("annotation", "file")])
def test_absent_paths_name_both_places(tmp_path, monkeypatch, field, kind):
    monkeypatch.chdir(tmp_path)
    meta = write(tmp_path / "there", {"a": {field: "nowhere"}})
    with pytest.raises(FileNotFoundError) as raised:
        Mixture.from_meta(meta, cache_dir=tmp_path)
    expected = f"{field} 'nowhere' is no {kind} at {tmp_path / 'nowhere'} nor {tmp_path / 'there/nowhere'}"
    assert expected in str(raised.value) and "data set 'a'" in str(raised.value)


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(ValueError, match="no row is left"):
        Mixture.from_meta(write(tmp_path, {"a": {"repeat_time": 0}}), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="has no rows"):
        Mixture.from_meta(write(tmp_path, {"a": {}}, rows=0), cache_dir=tmp_path)


def test_a_different_length_is_reported(tmp_path, caplog):
    Mixture.from_meta(write(tmp_path, {"a": {"length": "11"}, "b": {"length": 10}}), cache_dir=tmp_path)
    assert "'length' of 'a' is 11, " in caplog.text and "a.jsonl has 10 rows" in caplog.text
    assert "of 'b'" not in caplog.text


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "\udc80"])
def test_a_path_that_no_system_takes_is_only_not_there(tmp_path, path):
    meta = write(tmp_path, {"d": {"root": path}})
    with pytest.raises(FileNotFoundError, match="is no folder at") as raised:
        Mixture.from_meta(meta, cache_dir=tmp_path)
    assert len(str(raised.value)) < 2000 and str(raised.value).isprintable()


def test_more_places_than_memory_should_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="repeat_time 500000 of 1000 rows makes 500000000 pairs, at most 100000000"):
        Mixture.from_meta(write(tmp_path, {"d": {"repeat_time": 500_000}}, rows=1000), cache_dir=tmp_path)
