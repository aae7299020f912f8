"""Memory-mapped lines: line ends, blank lines, the kept index, folders that cannot be written."""

import json
import os
import pickle

import numpy as np
import pytest

from internvl_chat.records import jsonl
from internvl_chat.records.jsonl import JsonlFile, default_cache_dir


def opened(tmp_path, data, name="a.jsonl"):
    path = tmp_path / name
    path.write_bytes(data)
    return JsonlFile(path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", []),
        (b"a", [(b"a", 1)]),
        (b"a\nb\n", [(b"a", 1), (b"b", 2)]),
        (b"a\nb", [(b"a", 1), (b"b", 2)]),
        (b"a\r\nb\r\n", [(b"a", 1), (b"b", 2)]),
        (b"\n\na\n \t \nb\r\n\r\n", [(b"a", 3), (b"b", 5)]),
        (b"a" * 40 + b"\n" + b" " * 8 + b"\n" + b"b" * 40, [(b"a" * 40, 1), (b"b" * 40, 3)]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1 << 24])
def test_lines(tmp_path, data, lines, chunk, monkeypatch):
    monkeypatch.setattr(jsonl, "SCAN_BYTES", chunk)
    rows = opened(tmp_path, data)
    assert [rows[i] for i in range(len(rows))] == lines


def test_row_bytes(tmp_path):
    assert opened(tmp_path, b"aa\nbbbb\nc").row_bytes().tolist() == [3, 5, 1]


def test_lines_equal_those_of_a_plain_reader(tmp_path):
    rng = np.random.default_rng(0)
    texts = [json.dumps({"n": n, "text": "x\u00e9" * int(rng.integers(0, 60))}).encode() for n in range(500)]
    rows = opened(tmp_path, b"\n".join(texts))
    assert [rows[i][0] for i in range(len(rows))] == texts


def test_index_is_kept_and_made_anew_when_the_file_changes(tmp_path, monkeypatch):
    opened(tmp_path, b"a\nb\n")
    scans = []
    scan = jsonl._scan
    monkeypatch.setattr(jsonl, "_scan", lambda path: scans.append(path) or scan(path))
    path = tmp_path / "a.jsonl"
    rows = JsonlFile(path, tmp_path / "cache")
    assert len(rows) == 2 and not scans
    path.write_bytes(b"a\nb\nc\n")
    assert len(JsonlFile(path, tmp_path / "cache")) == 3 and len(scans) == 1
    path.write_bytes(b"a\nbb\nc")  # as long, but written later
    os.utime(path, ns=(1, 1))
    assert JsonlFile(path, tmp_path / "cache")[1] == (b"bb", 2) and len(scans) == 2


def test_kept_index_is_memory_mapped_on_the_second_opening(tmp_path):
    opened(tmp_path, b"a\nb\n")
    starts, numbers = jsonl.load_index(str(tmp_path / "a.jsonl"), tmp_path / "cache")
    assert isinstance(starts.base, np.memmap) or isinstance(starts, np.memmap)
    assert starts.tolist() == [0, 2] and numbers is None
    assert not list((tmp_path / "cache").glob("*.part"))


def test_broken_index_is_made_anew(tmp_path):
    opened(tmp_path, b"a\nb\n")
    (kept,) = (tmp_path / "cache").glob("*.npy")
    for data in (b"", b"rubbish", kept.read_bytes()[:-4]):
        kept.write_bytes(data)
        assert len(JsonlFile(tmp_path / "a.jsonl", tmp_path / "cache")) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "a.jsonl").write_bytes(b"a\n\nb\n")
    rows = JsonlFile(tmp_path / "a.jsonl", tmp_path / "file" / "cache")
    assert [rows[i] for i in range(2)] == [(b"a", 1), (b"b", 3)]


def test_rows_survive_pickling_for_spawned_workers(tmp_path):
    rows = pickle.loads(pickle.dumps(opened(tmp_path, b"a\n\nb\n")))
    assert (len(rows), rows[1]) == (2, (b"b", 3))


def test_default_cache_dir(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert str(default_cache_dir()) == "/some/where/internvl_chat/jsonl"


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        JsonlFile(tmp_path / "none.jsonl", tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link of itself"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "link of itself": lambda: path.symlink_to(path),
    }
    make[kind]()
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl: (not a regular file|no such file); name a JSONL file"):
        JsonlFile(path, tmp_path)


def test_a_user_without_a_home_has_a_cache_all_the_same(tmp_path, monkeypatch):
    """As in a container whose user id has no entry: the index is optional, and so is its place."""
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    (tmp_path / "t").mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    assert len(JsonlFile(tmp_path / "a.jsonl")) == 1
    assert len(list((tmp_path / "t").glob("internvl_chat-*/jsonl/*.npy"))) == 1
